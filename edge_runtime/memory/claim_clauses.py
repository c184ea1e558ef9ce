"""What in a text its writer asserts about the world: sentences cut into clauses, everything else left out.

Left out are questions, conditions and wishes, hedges, reported and quoted speech, fiction, lines that another speaker
wrote (quoted mail, chat logs, code), and all that follows a request to work on a text ("Translate this: ..."). When
in doubt a clause is left out: a fact that is missed can be said again, a wrong one is believed.
"""

from __future__ import annotations

import re
from typing import Final

# A sentence of more characters is none that a person said, and long ones would cost time without end.
_LONGEST_SENTENCE: Final = 400
_QUOTED = re.compile(
    r"“([^”]{0,400})”|\"([^\"]{0,400})\"|«([^»]{0,400})»|"
    r"(?<!\w)[‘'](?=\w)([^‘’'\n]{0,200}(?:['’]\w[^‘’'\n]{0,200}){0,4})[’'](?!\w)"
)
_FENCE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_MAIL_ABOVE = re.compile(
    r"(?im)^[ \t]*(?:-{2,}[ \t]*(?:original|forwarded) message.*|on\b.{4,90}\bwrote:[ \t]*|"
    r"begin forwarded message:?.*)$"
)
# "Ana: I live in Porto" is Ana's line; a few labels are the writer's own.
_LABEL = re.compile(r"\s*(?:[-*•]\s*)?(?P<label>[A-Z][\w .'’-]{0,30}?|[a-z]{2,12})\s*:\s+(?=\S)")
_OWN_LABELS: Final = frozenset({"me", "ps", "p.s.", "note", "fyi", "update", "btw", "about me", "reminder", "remember"})
_TEXT_WORK = re.compile(
    r"\W*(?:(?:please|kindly|can you|could you|would you|will you|help me(?: to)?|now)\W+)*(?:translate|rewrite|"
    r"rephrase|"
    r"paraphrase|proofread|correct|summari[sz]e|shorten|improve|polish|edit|fix|reword|reply to|answer this|"
    r"comment on|"
    r"write|draft|compose|continue|complete|finish|repeat|spell|analy[sz]e|roleplay|role-play|pretend|imagine|act as|"
    r"play the|what does|how do you say|is this|does this|read this|explain)\b",
    re.IGNORECASE,
)
_UNREAL = re.compile(
    r"\b(?:if|unless|whether|suppose|supposing|imagine|imagining|pretend|pretending|hypothetical\w*|wish|wished|"
    r"would|"
    r"could|should|might|maybe|perhaps|possibly|probably|presumably|apparently|allegedly|supposedly|rumou?r|"
    r"according to|as though|in case|let's say|say that|kidding|jk|joking|sarcas\w+|dream(?:t|ed)? that|dreamt|"
    r"in (?:my|the|a|this) (?:dream|story|novel|book|game|song|film|movie|play|poem|script|scene|role)|"
    r"once upon|my character|not sure|no idea|i guess|i think|i suppose|i believe|i wonder|i doubt|i feel like|"
    r"seems?|almost|nearly|sometimes think|as a joke|just joking|ever since i was told|for example|e\.g\.)\b"
    r"|\b\w+['’]d\b",
    re.IGNORECASE,
)
_REPORTING = re.compile(
    r"\b(?:say|says|said|saying|thinks|thought|claims|claimed|believes|believed|told|tells|telling|asks|asked|wrote|"
    r"writes|swears|swore|joked|insists|insisted|reckons|reckoned|assumes|assumed|suggests|suggested|jokingly|"
    r"reads|replied|answered|shouted|quoted|sings|sang|lied)\b",
    re.IGNORECASE,
)
_ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|Prof|vs|approx|etc|no)\.(?=\s)|\b[ap]\.m\.(?=\s)", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"')\]]*\s+|\n+|(?<=[;])\s+")
_PERSON = r"(?:I|i|we|We|my|My|our|Our)\b(?!['’]?s\b)"
_CLAUSE_BREAK = re.compile(
    rf"\s*(?:,|\s[-–—]+)\s*(?:(?:and|but|so|yet|because|since|though|although|while|"
    rf"as)\s+)?(?:that\s+)?(?:now\s+)?(?={_PERSON})"
    rf"|\s+(?:and|but|so|because|though|although|while)\s+(?:now\s+)?(?={_PERSON})|\s+[-–—]+\s+"
)
# "my wife and I", "Ana and my brother": one subject, not two clauses
_JOINED_SUBJECT = re.compile(r"^((?:[Mm]y|[Oo]ur) [\w-]+(?: [A-Z][\w-]*)?|[A-Z][\w-]+) and (?:I|me|myself)\b")
_TAG_QUESTION = re.compile(
    r"[,;]\s*(?:so |and |but )?(?=(?:do|does|did|can|could|what|where|which|who|whom|how|is|are|should|would|will|"
    r"any|"
    r"have|has|why|when)\b)(?!(?:do|does|did|can|could|is|are|should|would|will|have|has)(?:n['’]t| not)? (?:I|i|"
    r"we)\b)",
    re.IGNORECASE,
)
_PREFIX = re.compile(
    r"[\s•*>→-]*(?:(?:(?:please|kindly)[ ,]+)?(?:remember|note|don['’]t forget|do not forget|keep in mind|know)"
    r"(?:,? please,?)?(?:\s*:|\s+that|,)\s*|(?:just )?(?:so you know|for the record|by the way|btw|fyi|ps|p\.s\.|"
    r"update|"
    r"about me)\b[\s,:.-]*|(?:well|oh|ok|okay|hi there|hi all|hello there|hello|hi|hey there|hey|hiya|yes|yeah|"
    r"yep|no|nope|also|actually|honestly|sadly|"
    r"luckily|unfortunately|fortunately|frankly|and|but|so|because|good (?:morning|evening|afternoon)|anyway|plus|"
    r"turns out|as i (?:said|told you|mentioned)(?: before)?|good news|bad news|nowadays|these days|"
    r"currently|now|today|at the moment|as always|"
    r"news)\b[\s,:!.-]*)",
    re.IGNORECASE,
)
_DAY_OPENER = re.compile(
    r"(?P<when>(?:on|every|each|most|in the)\s+[\w ]{3,30}?),?\s+(?P<rest>(?:I|i|we|"
    r"We)\b.*)",
    re.DOTALL | re.IGNORECASE,
)
_OPENER = re.compile(
    rf"(?:(?:since|in|on|last|this|for|as of|from|until|two|three|a few)\s+[\w' ]{{2,28}}?,?\s+(?={_PERSON})"
    rf"|(?!['’\w]*\b(?:he|she|they)\b)[\w'’ ]{{2,40}}?,\s+(?={_PERSON}))",
    re.IGNORECASE,
)


def asserted_sentences(text: str) -> list[tuple[str, list[str]]]:
    """Every sentence of `text` that its writer states as true, as written, with its clauses: each begins with its
    subject."""
    found: list[tuple[str, list[str]]] = []
    for line in _own_lines(text):
        for sentence in _sentences(line):
            if _TEXT_WORK.match(sentence):
                return found
            stated = _before_question(sentence)
            if clauses := _clauses(stated):
                found.append((stated, clauses))
    return found


def _own_lines(text: str) -> list[str]:
    text = _FENCE.sub(" ", text.replace("’", "'"))
    above = _MAIL_ABOVE.search(text)
    if above:
        text = text[: above.start()]
    lines = []
    for line in text.splitlines():
        if line.lstrip().startswith((">", "|", "<")):
            continue
        label = _LABEL.match(line)
        if label and label["label"].lower() not in _OWN_LABELS and not _PREFIX.match(line):
            if _TEXT_WORK.match(line):
                lines.append(line[: label.end()])
            continue
        lines.append(line)
    return lines


def _sentences(line: str) -> list[str]:
    line = _QUOTED.sub(_unquoted, line)
    line = _ABBREVIATION.sub(lambda found: found[0].replace(".", "\u2024"), line)  # a dot that ends no sentence
    parts = [part.replace("\u2024", ".").strip() for part in _SENTENCE_END.split(line)]
    return [part for part in parts if part and len(part) <= _LONGEST_SENTENCE]


def _unquoted(found: re.Match[str]) -> str:
    inner = next(group for group in found.groups() if group is not None)
    # a quoted name stays; what somebody says is replaced by a mark that no pattern matches
    return inner if re.fullmatch(r"[A-Z][\w-]*(?: [A-Z][\w-]*)?", inner) else "\u241f"


def _before_question(sentence: str) -> str:
    """What is stated before a question begins: all of a statement, the first part of "I live in Lyon, do you ...?"."""
    if not sentence.endswith("?"):
        return sentence
    tags = list(_TAG_QUESTION.finditer(sentence))
    return sentence[: tags[-1].start()] if tags else ""


def _clauses(sentence: str) -> list[str]:
    if "\u241f" in sentence or _UNREAL.search(sentence):
        return []
    found = []
    sentence = _JOINED_SUBJECT.sub("we", sentence)
    for clause in _CLAUSE_BREAK.split(sentence):
        stripped = _without_opener(clause.strip(" ,.!…-–—"))
        if _REPORTING.search(stripped):
            break  # the clauses after it are what was said
        if stripped:
            found.append(stripped)
    return found


def _without_opener(clause: str) -> str:
    while (prefix := _PREFIX.match(clause)) and prefix.end():
        clause = clause[prefix.end() :]
    day = _DAY_OPENER.fullmatch(clause)
    if day:
        return f"{day['rest']} {day['when'][0].lower()}{day['when'][1:]}"
    opener = _OPENER.match(clause)
    return clause[opener.end() :] if opener else clause
