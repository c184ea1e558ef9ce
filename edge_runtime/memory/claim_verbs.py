"""The claims of a verb phrase about a subject: negation, "used to", "stopped" and "no longer" taken off, the rest
looked up among the predicates."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from edge_runtime.memory.claim_predicates import PREDICATES, Predicate, Temporal
from edge_runtime.memory.claim_values import items_of, role_of, trimmed
from edge_runtime.memory.claim_vocabulary import FREQUENCY, PHRASE_END


@dataclass(frozen=True)
class Claim:
    """One fact: `subject` ("" = the owner, else a named relation or person) has `attribute` with `value`.

    `polarity` False denies it ("no longer live in Lyon", "hate olives": not liking). `single`: one value holds at a
    time. `temporal`: "past" for what "used to" be, "future" for plans.
    """

    subject: str
    attribute: str
    value: str
    polarity: bool = True
    single: bool = False
    temporal: Temporal = "now"


_ADVERBS = re.compile(
    r"(?:(?:really|also|still|just|actually|honestly|absolutely|definitely|recently|currently|now|simply|finally|"
    r"already|quite|totally|truly|particularly|especially|mostly|mainly|sadly|then|since|proudly|both|all|do(?= "
    r"(?:like|"
    r"love|have|prefer|enjoy|eat|play|live|work|speak)\b)|do (?:really|still)|officially|even|strongly|greatly|"
    r"deeply|strictly|thoroughly|very much|rather|"
    r"secretly|generally(?= prefer)|usually(?= prefer)|always (?=love|hate|like|prefer|been)) )+",
    re.IGNORECASE,
)
_NEGATION = re.compile(
    r"(?:(?:do|am|are|will) not(?: (?:really|actually|particularly|even|ever))?|(?P<perfect>have) (?:not|never)|"
    r"never|"
    r"no longer|(?P<able>can) (?:not|no longer)(?! (?:stand|bear|abide|eat|have|tolerate|digest|get)\b)|"
    r"(?P<be>am) no longer)(?= )",
    re.IGNORECASE,
)
_NO_LONGER = re.compile(r"\b(?:any ?more|any longer|no longer)\b[.! ]*", re.IGNORECASE)
_USED_TO = re.compile(r"(?:used to|did use to) ", re.IGNORECASE)
_STOPPED = re.compile(r"(?:have )?(?:stopped|quit|gave up|given up|am done) (?P<verb>\w+ing)\b", re.IGNORECASE)
_GAVE_UP = re.compile(
    r"(?:have )?(?:quit|gave up|given up|cut out|am off|went off) (?:all )?(?P<thing>meat|dairy|alcohol|caffeine|"
    r"coffee|"
    r"sugar|gluten|fish|cigarettes|tobacco|bread|wheat|eggs|tea|beer|wine)\b.*",
    re.IGNORECASE,
)
_STARTED = re.compile(r"(?:have )?(?:started|began|begun|took up|taken up)(?: to)? (?P<verb>\w+)\b(?!\s+as\b)", re.I)
_ROUTINE = re.compile(r"(?:always|usually|often|normally|generally|mostly|tend to|rarely|seldom)\b", re.IGNORECASE)
_DRINKS: Final = frozenset({"alcohol", "caffeine", "coffee", "tea", "beer", "wine"})
_SECOND_VERB = re.compile(
    r",?\s+(?:and|but|or|,)\s+(?:then |also |now |still |really |only )*(?=(?:lives?|works?|worked|have|has|am|is|"
    r"was|do not|does not|"
    r"can not|likes?|loves?|hates?|dislikes?|prefers?|plays?|speaks?|enjoys?|studies|study|owns?|moved|grew up|"
    r"collects?|eats?|"
    r"never|drinks?|keeps?|runs?|swims?|stopped|started|used to|adores?|always|usually|detests?|can|refuses?|tend|"
    r"tends) )",
    re.IGNORECASE,
)
_PAST_MOVE = re.compile(r"(?:grew|was|had|have|am) ", re.IGNORECASE)
# What only points at something said or seen elsewhere is no lasting fact.
_POINTING = re.compile(
    r"\b(?:it|them|him|her|this|these|there|here|you|your|yourselves|myself|me|em|I|everyone|everybody|eachother|"
    r"each other)\b"
)
# "I love the yellow leaves" is about these leaves; "the sea" is a thing there is one of.
_DEFINITE = re.compile(
    r"(?:all )?(?:the|those) (?!(?:[\w-]+ )?(?:sea|ocean|rain|snow|sun|moon|stars|mountains?|countryside|theatre|"
    r"theater|opera|cinema|"
    r"beach|forest|woods|cold|heat|dark|outdoors|city|seaside|coast|summer|winter|autumn|fall|spring|nineties|"
    r"sixties|news|"
    r"movies|piano|cello|violin|guitar|desert|sound|smell|taste|texture|silence|night)\b)(?!(?-i:[A-Z]))",
    re.IGNORECASE,
)


def first_person(verb: str) -> str:
    """The verb phrase with its first verb in base form: "doesn't like" -> "do not like", "is" -> "am"."""
    lead = _ADVERBS.match(verb)
    start = verb[: lead.end()] if lead else ""
    first, _, rest = verb[len(start) :].partition(" ")
    low = first.lower()
    irregular = {"is": "am", "are": "am", "'s": "am", "has": "have", "does": "do", "was": "was", "goes": "go"}
    if low in irregular:
        base = irregular[low]
    elif low in ("never", "always", "usually", "often", "normally", "generally"):
        return f"{start}{first} {first_person(rest)}"
    elif re.search(r"(?:sh|ch|ss|x|zz)es$", low):
        base = low[:-2]
    elif low.endswith("ies"):
        base = low[:-3] + "y"
    elif low.endswith("s") and not low.endswith("ss"):
        base = low[:-1]
    else:
        base = first
    return f"{start}{base} {rest}".strip()


def claims_of_verb(subject: str, verb: str, *, third: bool = False) -> list[Claim]:
    """The claims of a verb phrase, its first verb in base form, about `subject`; `third` if it is not the owner's."""
    phrases = _SECOND_VERB.split(verb)
    if len(phrases) > 1:
        return _claims_of_phrases(subject, phrases, third=third)
    polarity = True
    temporal: Temporal | None = None
    verb = re.sub(r"^are\b", "am", verb.strip(), flags=re.IGNORECASE)
    verb = _without_adverbs(verb)
    if past := _USED_TO.match(verb):
        verb, temporal = re.sub(r"^be\b", "am", verb[past.end() :]), "past"
    if stopped := _STOPPED.match(verb):
        verb, polarity = _base_of_gerund(stopped["verb"]) + verb[stopped.end() :], False
    elif gave_up := _GAVE_UP.fullmatch(verb):
        thing = gave_up["thing"].lower()
        if thing in ("cigarettes", "tobacco"):
            return [Claim(subject, "smokes", "", False)]
        return [Claim(subject, "drinks" if thing in _DRINKS else "eats", thing, False)]
    elif (started := _STARTED.match(verb)) and started["verb"].lower().endswith("ing"):
        verb = _base_of_gerund(started["verb"]) + verb[started.end() :]
    if negated := _NEGATION.match(verb):
        if negated[0].lower().startswith("will"):
            return []
        auxiliary = "am" if re.match(r"am|are", negated[0], re.I) else negated["perfect"] or negated["able"] or ""
        verb = f"{auxiliary} {verb[negated.end() :].strip()}".strip()
        polarity = False
    elif re.match(r"(?:did|was|had|were) not\b", verb, re.IGNORECASE):
        return []
    verb = _without_adverbs(_NO_LONGER.sub("", verb).strip())
    if third:
        verb = first_person(verb)
    end = PHRASE_END.search(verb)
    verb = (verb[: end.start()] if end else verb).strip(" ,.")
    for predicate in PREDICATES:
        match = predicate.pattern.fullmatch(verb) or predicate.pattern.fullmatch(verb.partition(", ")[0])
        if match:
            return _claims_of_match(predicate, match, subject, polarity, temporal)
    return []


def _claims_of_phrases(subject: str, phrases: list[str], *, third: bool) -> list[Claim]:
    """ "lives in Lyon and works as a nurse": the later verbs count if the first one does, for else their subject may
    be another."""
    claims = claims_of_verb(subject, phrases[0], third=third)
    if claims or _PAST_MOVE.match(phrases[0]):
        for phrase in phrases[1:]:
            claims = claims + claims_of_verb(subject, first_person(phrase) if third else phrase, third=third)
    return claims


def _claims_of_match(
    predicate: Predicate, match: re.Match[str], subject: str, polarity: bool, temporal: Temporal | None
) -> list[Claim]:
    value = match["value"] or ""
    value = value.strip(" ,.!") if predicate.temporal == "future" else trimmed(value, whole=not predicate.listed)
    if predicate.attribute in ("works_as", "lives_in"):
        value = (
            role_of(value) if predicate.attribute == "works_as" else re.split(r",? (?:with|for|together)\b", value)[0]
        )
    claim = Claim(
        subject,
        predicate.attribute,
        value,
        polarity == predicate.positive,
        predicate.single,
        temporal or predicate.temporal,
    )
    if not polarity and (predicate.temporal == "future" or not predicate.positive):
        return []  # "not going to", "do not hate": nothing follows
    if predicate.attribute == "habit" and not (_ROUTINE.match(value) or re.search(FREQUENCY, value, re.IGNORECASE)):
        return []
    if predicate.attribute == "owns" and (none := re.match(r"(no|any) ", value)):
        claim = replace(claim, value=value[none.end() :], polarity=False)
    if _POINTING.search(value) or (claim.attribute == "likes" and _DEFINITE.match(value)):
        return []
    if not value:
        bare = {"drinks": "alcohol", "smokes": ""}
        return [replace(claim, value=bare[claim.attribute])] if claim.attribute in bare else []
    if predicate.listed:
        return [replace(claim, value=item) for item in items_of(value)]
    return [claim]


def _without_adverbs(verb: str) -> str:
    lead = _ADVERBS.match(verb)
    verb = verb[lead.end() :] if lead else verb
    return re.sub(
        r"^(am|have|can) (?:(?:really|also|still|just|actually|currently|now|always|already|both|all|"
        r"recently|finally|definitely|quite|absolutely|so|very|only) )+",
        r"\1 ",
        verb,
        flags=re.IGNORECASE,
    )


def _base_of_gerund(gerund: str) -> str:
    stem = gerund[:-3]
    if re.fullmatch(
        r"(?:tak|mak|writ|bak|danc|smok|liv|lov|hik|cycl|driv|us|rid|hat|mov|practis|exercis|giv|serv|keep-bee)",
        stem,
        re.IGNORECASE,
    ):
        return stem + "e"
    doubled = re.fullmatch(r"(.*[aeiou])([bdgmnpt])\2", stem, re.IGNORECASE)
    return doubled[1] + doubled[2] if doubled else stem
