"""Style: what can be counted about an answer, and what people who prefer one style to another mostly mean.

Twenty-three numbers of (prompt, answer), in the order of STYLE_NAMES. They are deterministic, need no model and name
themselves, so a weight on one of them can be shown to its owner. Word lists are short and English: in another language
their numbers are 0 throughout and tell nobody apart.

Counts c become root rates sqrt(c / (n + PRIOR_WORDS)), n the answer's words: the root evens out the variance of counts,
and the prior keeps one word of a short answer from being a rate of a third. Root rates deviate by about 0.1 in ordinary
text; every number lies between 0 and about 10.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

STYLE_NAMES: Final = (
    "length",  # log(1 + words)
    "sentence_length",  # log(1 + words per sentence)
    "word_length",  # mean letters per word
    "long_words",  # root rate of words of 8 letters or more
    "variety",  # different words / words, of the first 40
    "questions",  # root of question marks per sentence, at most 1
    "exclamations",  # root of exclamation marks per sentence, at most 1
    "commas",  # root rate of commas, semicolons, colons
    "first_person",  # root rates from here on
    "second_person",
    "numbers",
    "capitals",  # words of three or more letters, all capitals
    "informal",  # contractions, slang
    "reasoning",  # because, therefore, although ...
    "hedges",
    "certainty",
    "positive",
    "negative",
    "warm",
    "abstract",  # words whose ending makes them abstract: the opposite of concrete
    "lists",  # lines that are list items
    "paragraphs",  # breaks between paragraphs
    "prompt_overlap",  # share of the prompt's content words that the answer takes up
)

PRIOR_WORDS: Final = 10.0
_VARIETY_WORDS: Final = 40
_LONG_WORD: Final = 8
_WORD: Final = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_NUMBER: Final = re.compile(r"\d[\d.,]*")
_SENTENCE_END: Final = re.compile(r"[.!?…]+(?=\s|$|[\"')\]])")
_LIST_ITEM: Final = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])\s+\S", re.MULTILINE)
_PARAGRAPH: Final = re.compile(r"\n\s*\n")
_ABSTRACT: Final = re.compile(r".{3,}(?:tion|sion|ness|ment|ity|ance|ence|ism|ship|hood|logy)s?$")


def _list(words: str) -> frozenset[str]:
    return frozenset(words.split())


_FIRST: Final = _list("i i'm i've i'd i'll me my mine myself we we're we've we'd we'll us our ours ourselves")
_SECOND: Final = _list("you you're you've you'd you'll your yours yourself yourselves")
_INFORMAL: Final = _list(
    "ain't awesome btw bunch cool cuz dude dunno gonna gotta guy guys haha hey hi huge kid kids kinda lol lots nope "
    "oh ok okay omg pls plus pretty stuff super sure thing things totally u ur wanna wow yay yeah yep yo"
)
_REASONING: Final = _list(
    "although as because but consequently despite due evidence example except furthermore hence however if instead "
    "moreover nevertheless otherwise reason reasons since so than therefore though thus unless whereas while yet"
)
_HEDGES: Final = _list(
    "about almost apparently appear appears around can could fairly feel guess likely may maybe might mostly often "
    "partly perhaps possible possibly potentially probably quite rather roughly seem seems should some somewhat "
    "sometimes suggest suggests tend tends think usually would"
)
_CERTAINTY: Final = _list(
    "absolutely all always anyone certain certainly clearly completely definitely entirely every everyone exactly "
    "fact must never no nobody none nothing obvious obviously only proven surely totally truth undoubtedly "
    "will wrong"
)
_POSITIVE: Final = _list(
    "amazing beautiful benefit benefits best better brilliant easy enjoy excellent excited exciting fantastic "
    "favourite favorite fine free fun glad good great happy healthy helpful improve interesting joy nice perfect "
    "pleasant positive right safe strong success successful useful valuable win wonderful worth"
)
_NEGATIVE: Final = _list(
    "afraid angry awful bad boring broken cruel damage danger dangerous dead death destroy difficult dumb evil fail "
    "failure fear hard harm hate horrible hurt kill lie lies lose mistake murder pain poor problem problems ridiculous "
    "risk sad scared sick stupid suffer terrible threat ugly unfair useless waste weak worry worse worst wrong"
)
_WARM: Final = _list(
    "appreciate care caring child children comfort congratulations dear family feel feelings forgive friend friends "
    "gentle glad heart help hope hug kind kindness listen love loved loving mother parents please respect share sorry "
    "support sweet thank thanks together trust understand understanding warm welcome wish"
)
_FILLERS: Final = _list(
    "a about an and any are as at be been but by can could did do does for from had has have how i if in is it its me "
    "more my no not of on or our should so some tell than that the their them then there these they this to was we "
    "were what when where which who why will with would you your"
)


def style_features(prompt: str, answer: str) -> NDArray[np.float32]:
    """(len(STYLE_NAMES),) float32 of one answer; an empty one has a length of 0."""
    found = _WORD.findall(answer)
    words = [word.lower().replace("’", "'") for word in found]
    count = len(words)
    sentences = max(1, len(_SENTENCE_END.findall(answer)))

    def rate(hits: int) -> float:
        return math.sqrt(hits / (count + PRIOR_WORDS))

    def listed(members: frozenset[str]) -> float:
        return rate(sum(word in members for word in words))

    opening = words[:_VARIETY_WORDS]
    values = (
        math.log1p(count),
        math.log1p(count / sentences),
        min(10.0, sum(map(len, words)) / max(1, count)),
        rate(sum(len(word) >= _LONG_WORD for word in words)),
        (len(set(opening)) + 1) / (len(opening) + 1),
        min(1.0, math.sqrt(answer.count("?") / sentences)),
        min(1.0, math.sqrt(answer.count("!") / sentences)),
        rate(sum(answer.count(mark) for mark in ",;:")),
        listed(_FIRST),
        listed(_SECOND),
        rate(len(_NUMBER.findall(answer))),
        rate(sum(len(word) >= 3 and word.isupper() for word in found)),
        rate(sum(word in _INFORMAL or "'" in word for word in words)),
        listed(_REASONING),
        listed(_HEDGES),
        listed(_CERTAINTY),
        listed(_POSITIVE),
        listed(_NEGATIVE),
        listed(_WARM),
        rate(sum(_ABSTRACT.match(word) is not None for word in words)),
        rate(len(_LIST_ITEM.findall(answer))),
        rate(len(_PARAGRAPH.findall(answer.strip()))),
        _overlap(prompt, words),
    )
    return np.array(values, dtype=np.float32)


def _overlap(prompt: str, words: Iterable[str]) -> float:
    """The share of the prompt's words, fillers aside, that stand in the answer too."""
    asked = {word.lower().replace("’", "'") for word in _WORD.findall(prompt)} - _FILLERS
    return len(asked.intersection(words)) / max(1, len(asked))
