"""Who a clause is about: the owner, a relation ("my sister Ana") or a person named; and the claims that names and
possessions make by themselves."""

from __future__ import annotations

import re
from typing import Final

from edge_runtime.memory.claim_values import before_end, role_of, trimmed
from edge_runtime.memory.claim_verbs import Claim, claims_of_verb, first_person
from edge_runtime.memory.claim_vocabulary import (
    BIRTHDAY,
    DEMONYM,
    PETS,
    PLURAL_RELATIVES,
    RELATIVES,
    SEVERAL_RELATIVES,
    THINGS,
)

_CAPITALISED = r"(?-i:[A-Z](?:'[A-Z])?[\w-]*)"
_NAME = rf"{_CAPITALISED}(?: {_CAPITALISED}){{0,2}}"
_ALL_RELATIVES = f"{SEVERAL_RELATIVES}|{RELATIVES}"
_ADJECTIVES = (
    r"(?:(?:new|old|older|elder|eldest|oldest|younger|youngest|little|big|late|other|second|first|middle|best|good|"
    r"closest|dear|ex|beloved|great|black|white|ginger|grey|brown|three-legged|twin|half|step|downstairs|upstairs|"
    r"next-door|\w+-year-old)[ -])*"
)
_OWNER = re.compile(r"(?:i|we)\b(?!['-]?s\b)\s*(?P<verb>.*)", re.IGNORECASE | re.DOTALL)
_MY_NAME = re.compile(
    rf"(?:my (?:full |first |real )?name is|i am called|(?:you can |please |just |everyone |people |friends )*call "
    rf"me|"
    rf"i go by) (?P<name>{_NAME})(?: by the way| (?:and|but) .*)?",
    re.IGNORECASE,
)
_I_AM_NAME = re.compile(
    r"i am (?P<name>(?-i:(?!\\w*(?:ed|ing|ful|ous|less|ish)\\b)[A-Z][a-zé'-]+(?: [A-Z][a-zé'-]+)?))", re.IGNORECASE
)
_POSSESSED = re.compile(
    rf"(?:my|our) (?P<noun>{_ADJECTIVES}(?:{_ALL_RELATIVES}|{PETS}|{PLURAL_RELATIVES}))"
    rf"(?:,? (?P<name>{_NAME}),?)?(?:'s (?P<of>name|birthday))? (?P<verb>.+)",
    re.IGNORECASE | re.DOTALL,
)
_CALLED = re.compile(rf"(?:is|are) (?:called |named )?(?P<names>{_NAME}(?:(?:, | and ){_NAME})*)", re.IGNORECASE)
_WITH_NAME = re.compile(
    rf"\b(?:my|our) (?P<noun>{_ADJECTIVES}(?:{_ALL_RELATIVES}|{PETS})),? (?P<name>{_NAME})\b", re.IGNORECASE
)
_PET_NAMED = re.compile(
    rf"\b(?P<noun>{PETS}|son|daughter|sister|brother)s? (?:called|named) (?P<names>{_NAME}(?:(?:, | and ){_NAME})*)",
    re.IGNORECASE,
)
_FAVOURITE = re.compile(r"(?:my|our) (?P<noun>(?:all-time )?favou?rite [\w '-]{2,40}?) (?:is|are) (?P<value>.+)", re.I)
_MINE = re.compile(
    rf"(?:my|our) (?P<noun>native language|mother tongue|first language|job|profession|occupation|birthday|hometown|"
    rf"home town|blood type|shoe size|hobby|hobbies|pronouns|nationality|(?:new )?(?:{THINGS})) (?:is|are) "
    rf"(?P<value>.+)",
    re.IGNORECASE,
)
_NAMED_PERSON = re.compile(rf"(?P<name>{_CAPITALISED}(?: {_CAPITALISED})?) (?P<verb>.+)", re.DOTALL)
# capitalised words that begin a sentence and name nobody
_NOT_NAMES = (
    "I It This That These Those There Here He She They We You Everyone "
    "Everybody Someone Nobody Somebody Anyone People What Who When Where Why How Which The "
    "A An My Our Your His Her Their Its Today Tomorrow Yesterday Now Then "
    "Also And But So Or If Monday Tuesday Wednesday Thursday Friday Saturday Sunday January "
    "February March April May June July August September October November December Work Life Winter "
    "Summer Spring Autumn Christmas Easter Coffee Tea Google Nothing Everything Something Both All None "
    "Never Always Please Thanks Dear Hi Hello Yes No Not Just Only Back Home "
    "Sorry Sure Fine Done Happy Glad Good Great Bad Tired Busy Off On In "
    "At To For From With After Before Still Already Late Early Here's Ready New "
    "Old Mum Dad Mom "
)
_NOT_A_NAME: Final = frozenset(_NOT_NAMES.split())
# "Anton likes", "Anton used to": a verb that shows that the capitalised word before it is its subject
_THIRD_FORM = re.compile(r"(?:(?:also|really|still|now|always|never|just) )*(?:\w+s|used to|moved to|does not)\b")
# Verbs of another person that are worth keeping; of a bare capitalised word nothing else is believed.
_OF_OTHERS: Final = frozenset(
    {"likes", "prefers", "lives_in", "works_as", "works_at", "allergic_to", "intolerant_to", "diet", "speaks", "plays",
     "plans", "health", "learning", "studies", "eats", "drinks", "age", "born_in", "comes_from", "grew_up_in", "habit",
     "owns", "collects", "marital_status", "avoids"}
)  # fmt: skip
_OF_BARE_NAMES: Final = _OF_OTHERS - {"habit", "owns", "age", "eats", "drinks", "marital_status"}

_CONTRACTIONS: Final = (
    (re.compile(r"\b(can)(?:not|'t)\b", re.I), r"\1 not"),
    (re.compile(r"\bwon't\b", re.I), "will not"),
    (re.compile(r"\bain't\b", re.I), "am not"),
    (re.compile(r"\b(\w+)n't\b", re.I), r"\1 not"),
    (re.compile(r"\b(i)'?m\b(?!')", re.I), r"\1 am"),
    (re.compile(r"\b(i|we|they|you)'ve\b", re.I), r"\1 have"),
    (re.compile(r"\b(i|we|they)'ll\b", re.I), r"\1 will"),
    (re.compile(r"\b(we|they)'re\b", re.I), r"\1 are"),
    (re.compile(r"\b(name|called|job|birthday|favou?rite \w+)'s\b(?= )", re.I), r"\1 is"),
)


def _expanded(clause: str) -> str:
    for pattern, replacement in _CONTRACTIONS:
        clause = pattern.sub(replacement, clause)
    return clause


def claims_of_clause(clause: str) -> list[Claim]:
    """The claims of one clause that begins with its subject."""
    clause = _expanded(clause)
    if name := _MY_NAME.fullmatch(clause):
        return [] if name["name"] in _NOT_A_NAME else [Claim("", "name", name["name"], single=True)]
    if (name := _I_AM_NAME.fullmatch(clause)) and not DEMONYM.match(name["name"]) and name["name"] not in _NOT_A_NAME:
        return [Claim("", "name", name["name"], single=True)]
    if owner := _OWNER.fullmatch(clause):
        return _names_within(clause) + claims_of_verb("", owner["verb"])
    if favourite := _FAVOURITE.fullmatch(clause):
        value = trimmed(favourite["value"])
        return (
            [Claim("", favourite["noun"].lower().replace("favorite", "favourite"), value, single=True)] if value else []
        )
    if mine := _MINE.fullmatch(clause):
        return _claim_of_mine(mine["noun"].lower(), mine["value"])
    if possessed := _POSSESSED.fullmatch(clause):
        return _claims_of_possessed(possessed)
    person = _NAMED_PERSON.fullmatch(clause)
    if person and not set(person["name"].split()) & _NOT_A_NAME and _THIRD_FORM.match(person["verb"]):
        claims = claims_of_verb(person["name"], first_person(person["verb"]), third=True)
        return [claim for claim in claims if claim.attribute in _OF_BARE_NAMES]
    return []


def _claim_of_mine(noun: str, value: str) -> list[Claim]:
    noun = noun.removeprefix("new ")
    if noun == "birthday":
        when = BIRTHDAY.fullmatch(value)
        return [Claim("", "birthday", trimmed(when["value"]), single=True)] if when else []
    if noun in ("job", "profession", "occupation"):
        value = role_of(re.sub(r"^(?:that of )?(?:an?|the) ", "", trimmed(value)))
        return [Claim("", "works_as", value, single=True)] if value else []
    value = trimmed(value)
    described = re.match(r"(?:an?|the) |[A-Z]|\d", value)
    if not value or (re.fullmatch(THINGS, noun) and not described):
        return []
    return [Claim("", noun.replace("home town", "hometown"), value, single=noun not in ("hobby", "hobbies"))]


def _claims_of_possessed(found: re.Match[str]) -> list[Claim]:
    noun, name, verb = found["noun"].lower(), found["name"], found["verb"]
    if found["of"] == "birthday":
        when = BIRTHDAY.fullmatch(re.sub(r"^(?:is|was) ", "", verb))
        return [Claim(f"my {noun}", "birthday", trimmed(when["value"]), single=True)] if when else []
    called = _CALLED.fullmatch(before_end(verb)) or _CALLED.match(before_end(verb))
    if not name and called and not DEMONYM.match(called["names"]):
        return _name_claims(noun, called["names"])
    if found["of"] == "name":
        return []
    claims = _name_claims(noun, name) if name else []
    subject = f"my {noun} {name}" if name else f"my {noun}"
    plural = re.search(rf"(?:{PLURAL_RELATIVES})$", noun, re.IGNORECASE)
    theirs = claims_of_verb(subject, re.sub(r"^are\b", "am", verb) if plural else first_person(verb), third=True)
    return claims + [claim for claim in theirs if claim.attribute in _OF_OTHERS]


def _names_within(clause: str) -> list[Claim]:
    claims = [claim for found in _WITH_NAME.finditer(clause) for claim in _name_claims(found["noun"], found["name"])]
    for found in _PET_NAMED.finditer(clause):
        claims += _name_claims(found["noun"], found["names"])
    return claims


def _name_claims(noun: str, names: str) -> list[Claim]:
    noun = re.sub(r"^(?:new|late|beloved|dear|good) ", "", noun.lower())
    several = re.search(rf"(?:{SEVERAL_RELATIVES}|{PLURAL_RELATIVES})$", noun, re.IGNORECASE) is not None
    each = [name for name in re.split(r", | and ", names) if name not in _NOT_A_NAME]
    return [Claim("", f"{noun}'s name", name, single=not several and len(each) == 1) for name in each]
