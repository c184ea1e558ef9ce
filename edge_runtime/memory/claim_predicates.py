"""The predicates that claims are read from: verb phrases in base form ("live in", "am allergic to") and their
attribute.

The subject has been cut off and the first verb put into its base form, so that one table serves "I live in Lyon" and
"my sister Ana lives in Lyon". The first predicate that matches a clause wins. A group named `value` is the value;
`single` attributes hold one value at a time; `listed` values are cut at commas and "and".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from edge_runtime.memory.claim_vocabulary import (
    CAPITAL,
    CONDITIONS,
    DEMONYMS,
    DIETS,
    EVENT,
    FREQUENCY,
    GAMES,
    INSTRUMENTS,
    LANGUAGES,
    LATER,
    NUMBER,
    OCCUPATION,
    PETS,
    PLACE,
    PLURAL_ANIMALS,
    STATES,
    THINGS,
    WHEN,
)

Temporal = Literal["now", "past", "future"]


@dataclass(frozen=True)
class Predicate:
    """One verb phrase, matched as a whole from its first verb on; `positive` False turns the meaning round ("hate" is
    not liking)."""

    attribute: str
    pattern: re.Pattern[str]
    single: bool = False
    positive: bool = True
    listed: bool = False
    temporal: Temporal = "now"


def _predicate(
    attribute: str,
    pattern: str,
    *,
    single: bool = False,
    positive: bool = True,
    listed: bool = False,
    temporal: Temporal = "now",
) -> Predicate:
    return Predicate(attribute, re.compile(pattern, re.IGNORECASE | re.DOTALL), single, positive, listed, temporal)


_BE = r"(?:am|have been|became|turned|got|went)"
PREDICATES: Final = (
    # home
    _predicate(
        "plans",
        rf"(?P<value>(?:am|will be) (?:moving|relocating|emigrating) (?:back )?(?:to|into|out)\b.+|"
        rf"am (?:getting married|retiring)\b.*|am expecting a (?:baby|child).*|"
        rf"am (?:flying|travelling|traveling|going) (?:back )?to {CAPITAL}[^,]*{WHEN}|"
        rf"am (?:running|starting|visiting|taking|moving|going|training|leaving|performing|playing|sitting (?:an?|"
        rf"my))\b"
        rf"[^,]*{WHEN})",
        temporal="future",
    ),
    _predicate(
        "lives_in",
        rf"(?:(?:live|am living|reside|have been living|have lived(?=.* (?:for|since)\b)|am based)(?: with "
        rf"[\w ]{{2,20}}?)? (?:now )?"
        rf"(?:in|at|near|on|outside)|"
        rf"(?:have )?(?:moved|relocated|emigrated)(?: house| home)?(?: back| over| out| down| up)?(?: from [\w ]+?)? "
        rf"(?:to|into)|"
        rf"(?:have )?(?:settled|bought a (?:house|flat|place)) in) (?P<value>{PLACE})",
        single=True,
    ),
    _predicate(
        "lives_in",
        rf"(?:have )?(?:moved (?:out of|away from|from)|left) (?P<value>{CAPITAL}.+?)(?: for .*)?",
        single=True,
        positive=False,
    ),
    _predicate("lives", r"(?:live|am living) (?P<value>alone|by myself|(?:with|together with) .+)", single=True),
    _predicate("born_in", rf"(?:was|am) born (?:and raised )?in (?P<value>{CAPITAL}.+|(?:18|19|20)\d\d)", single=True),
    _predicate("born_on", r"was born on (?P<value>.*\d.*)", single=True),
    _predicate("grew_up_in", rf"grew up (?:in|on|near) (?P<value>{PLACE})", single=True),
    _predicate(
        "comes_from", rf"(?:am (?:originally )?from|come (?:originally )?from) (?P<value>{CAPITAL}.+)", single=True
    ),
    _predicate("nationality", rf"am (?:half |originally )?(?P<value>(?-i:{DEMONYMS}))(?! \w)\b", listed=False),
    # work and study
    _predicate(
        "plans",
        rf"(?P<value>(?:am (?:planning|hoping|training|aiming|saving up)|plan|intend|hope|aim) (?:to|on|for)\b.+|"
        rf"am going to (?!bed\b|sleep\b|be\b|try\b|kill|die|have to)[^,]*{WHEN}|"
        rf"will (?!be late|be back|be home|call|let|see|ask|try|send|bring|do|tell|bet)[^,]*{LATER}|"
        rf"(?:have|have got) (?:an?|my|two) (?:[\w'-]+ ){{0,2}}(?:{EVENT})\b[^,]*{WHEN}|"
        rf"(?:have )?(?:booked|signed up for) .+|am saving (?:up )?for .+|fly to {CAPITAL}[^,]*{WHEN})",
        temporal="future",
    ),
    _predicate(
        "works_as",
        r"(?:am|have been) (?P<value>retired|self-employed|unemployed|out of work|between jobs)\b.*",
        single=True,
    ),
    _predicate("works_as", r"(?P<value>retired)\b(?: (?:last|this|in|from|early)\b.*)?", single=True),
    _predicate(
        "works_as",
        r"(?:work|am working|have worked|freelance|(?:have )?(?:started|begun)(?: (?:work|working|out|a (?:new "
        r")?job))?|"
        r"got (?:a|the|my) (?:new )?(?:job|post|position)|am employed|am training) as (?:an? |the )?(?P<value>.+)",
        single=True,
    ),
    _predicate(
        "works_as",
        rf"{_BE} (?:an?|the|now an?) (?!friend|fan)(?P<value>{OCCUPATION})\b(?! of (?:mine|yours))(?:(?:,| (?:at|"
        rf"in|for|with|by|from|on|and|who|now|here|there|again)\b).*)?",
        single=True,
    ),
    _predicate(
        "works_at",
        rf"(?:(?:work(?: (?:night|day|late|early) shifts)?|am working|have worked|got a job|(?:have )?started (?:a "
        rf"(?:new )?job|work|working)|am "
        rf"employed) "
        rf"(?:at|for|in|with|by)|(?:have )?joined(?={CAPITAL})) "
        rf"(?!(?:home|night|weekends?|the moment|the same|a while|hours|years|my (?:own|garden|room)|myself|shifts|"
        rf"pyjamas|silence|two|three|lunch|all|general|practice|theory|christmas|the (?:morning|evening|garden)s?)\b)"
        rf"(?P<value>.+)",
        single=True,
    ),
    _predicate(
        "works_at", r"(?:left|quit) (?:my job at|working (?:at|for)) (?P<value>.+)", single=True, positive=False
    ),
    _predicate("works_from", r"work(?:ing)? (?:from )(?P<value>home)\b.*", single=True),
    _predicate(
        "studies",
        r"(?:study|am studying|am doing a (?:degree|phd|master's|course|diploma) in) "
        r"(?!(?:at night|hard|for|every|in the|with|all)\b)(?P<value>.+)",
    ),
    # languages
    _predicate(
        "speaks",
        rf"(?:speak|can speak|am fluent in|am bilingual in) (?:fluent |good |some |a (?:little|bit of) |"
        rf"basic |decent )?(?P<value>(?-i:{LANGUAGES})\b.*)",
        listed=True,
    ),
    _predicate(
        "learning",
        r"(?:(?:am |have been )?learning|learn|am teaching myself|am taking lessons in|have been taking lessons in) "
        r"(?!(?:a lot|that|the hard|how much|more|so|about)\b)(?:to )?(?P<value>.+)",
    ),
    # health and food
    _predicate(
        "allergic_to",
        r"(?:am|have been|became) (?:very |severely |badly |highly |deathly |mildly |a bit |slightly |"
        r"terribly )?allergic to (?P<value>.+)",
        listed=True,
    ),
    _predicate(
        "allergic_to",
        r"(?:have|have got) an? (?:\w+ )?allergy to (?P<value>.+)",
        listed=True,
    ),
    _predicate(
        "allergic_to",
        r"(?:have|have got) an? (?:bad |severe |mild |serious )?(?P<value>[\w-]+(?: [\w-]+)?) "
        r"allergy\b.*",
        listed=True,
    ),
    _predicate("intolerant_to", r"am intolerant (?:to|of) (?P<value>.+)", listed=True),
    _predicate(
        "diet",
        rf"{_BE} (?:an? |mostly |strictly |fully |now )*(?:strict |committed |lifelong )?"
        rf"(?P<value>{DIETS})\b(?: (?:since|for|from|all)\b.*|, .*)?",
    ),
    _predicate(
        "diet",
        r"(?:keep|follow|am on|eat|have|adhere to) (?:an? |strictly |strict |only )*(?P<value>(?:kosher|halal|"
        r"vegan|vegetarian|"
        r"low-carb|keto|gluten-free|low-salt|low-fodmap|low-sodium|ketogenic|plant-based|dairy-free|"
        r"sugar-free)(?: diet| food)?)\b",
    ),
    _predicate("drinks", r"drink(?P<value>)(?: at all| anymore)?", listed=False),
    _predicate(
        "health",
        rf"(?:have|have got|suffer from|live with|was diagnosed with|have been diagnosed with|got "
        rf"diagnosed with) (?P<value>{CONDITIONS})\b.*",
    ),
    _predicate(
        "health", rf"(?:am|became) (?:very |mildly |severely |partially |slightly |\w+ months )?(?P<value>{STATES})\b"
    ),
    _predicate(
        "takes",
        r"(?:take|am on|am taking) (?:daily )?(?P<value>(?:[\w-]+ )?(?:metformin|statins?|insulin|"
        r"antidepressants|blood thinners|warfarin|antihistamines?|ibuprofen|thyroxine|levothyroxine|"
        r"beta blockers|aspirin|iron tablets|vitamin \w+|the pill))\b.*",
    ),
    # family, possessions
    _predicate(
        "marital_status",
        r"(?:am|got|have been|just got|am still|have just got) (?:happily |newly |just )?"
        r"(?P<value>married|divorced|engaged|single|widowed|separated)\b(?! to (?:the|my|this|that)\b)"
        r"(?:(?: to| for| since| in| last| on| again)\b.*)?",
        single=True,
    ),
    _predicate(
        "age",
        r"(?:am|turned|just turned|have turned|will be|am nearly|am turning) (?P<value>\d{1,3}|"
        r"(?:twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)(?:-\w+)?|(?:thir|four|fif|six|seven|eigh|"
        r"nine)teen|twelve|eleven|ten|nine|eight|seven|six|five|four|three|two)"
        r"(?: years old| years of age)?(?: (?:today|now|yesterday|last \w+|this \w+|in \w+))?",
        single=True,
    ),
    _predicate(
        "owns",
        rf"(?:have|have got|own|keep|(?:have )?(?:just )?(?:got|bought|adopted|inherited|acquired|rescued)) "
        rf"(?:myself |ourselves )?(?P<value>(?:{NUMBER}) (?:(?!(?:per|of|for|in|from|on|with|at|to)\b)[\w-]+ "
        rf"){{0,3}}?(?:{PLURAL_ANIMALS}|{THINGS}|"
        rf"sons?|daughters?|"
        rf"kids?|children|sisters?|brothers?|siblings|grandchildren|twins|twin (?:sister|brother)|boys|girls|"
        rf"child))\b"
        rf"(?! (?:problem|trouble|accident|payment|insurance|crash|ride|show|litter|in for|to sell|for (?:sale|"
        rf"rent)))"
        r"(?P<tail>.*)",
    ),
    _predicate("owns", rf"have (?P<value>(?:{PLURAL_ANIMALS}|{THINGS}|kids|children|siblings))"),
    _predicate(
        "owns",
        rf"(?:sold|gave away|lost|got rid of|scrapped|rehomed) (?:my|our|the) (?:old )?"
        rf"(?P<value>(?:[\w-]+ )?(?:{PETS}|{THINGS}))\b.*",
        positive=False,
    ),
    _predicate("owns", r"own (?P<value>.+)"),
    # habits come before tastes: "I love ... on Sundays" has no verb of doing
    _predicate(
        "habit",
        rf"(?P<value>(?:(?:always|usually|often|normally|generally|mostly|tend to) )?"
        rf"(?!like|love|hate|adore|enjoy|dislike|detest|prefer|want|need|hope|miss|am\b|was\b|think|see you|have "
        rf"been|will\b|\w+ed\b|went|did|"
        rf"took|ran|met|saw|made|got|came|gave|spent|drove|sat|slept|ate|drank|bought|wrote|felt|kept|used|can\b|"
        rf"had\b|write (?:to|regarding|about)\b|give\b|know\b)\w+\b.*?{FREQUENCY}.*)",
    ),
    _predicate(
        "habit",
        r"(?P<value>(?:always|usually|normally|generally|tend to|rarely|seldom) "
        r"(?!am\b|be\b|been\b|it\b|the\b|\w+ed\b|got\b|felt\b|end up|look forward|think|thought|want|feel|wonder|"
        r"forget|know|knew|have to|get it|get this|had\b|say)\w+ .+)",
    ),
    _predicate(
        "eats",
        r"(?:can not (?:eat|have|digest|tolerate)|must not eat|avoid eating|have to avoid) "
        r"(?!(?:it|this|that|them|anything|everything|enough|a (?!single)|you)\b)(?P<value>.+)",
        positive=False,
        listed=True,
    ),
    _predicate(
        "eats",
        r"(?:eat|consume) "
        r"(?!(?:it|this|that|them|here|there|out|at|in|with|too|when|lunch now|you|any of)\b)(?P<value>.+)",
        listed=True,
    ),
    _predicate(
        "avoids",
        r"(?:avoid|refuse to|have to avoid|stay away from) (?!(?:it|this|that|them|him|her|you|answer\w*|"
        r"say)\b)(?P<value>.+)",
        listed=True,
    ),
    _predicate(
        "likes",
        r"(?:have an? (?:[\w-]+ )?(?:aversion to|dislike (?:of|for)|hatred of)|have (?:no|zero|little) interest "
        r"in|am uncomfortable with) (?P<value>.+)",
        positive=False,
        listed=True,
    ),
    _predicate("eats only", r"only (?:eat|consume) (?P<value>.+)", listed=True),
    _predicate("drinks", r"drink (?!(?:it|this|that|to|too|at|with)\b)(?P<value>.+)", listed=True),
    _predicate("smokes", r"smoke(?P<value>)(?: .*)?"),
    # tastes
    _predicate(
        "prefers",
        r"(?:much |strongly |generally |still |vastly )?prefer (?!(?:it|this|that|them|him|her|you)\b)"
        r"(?P<value>.+)",
    ),
    _predicate(
        "likes",
        r"(?:hate|dislike|detest|loathe|despise|can not (?:stand|bear|abide)|am not (?:a|much of a) (?:big |"
        r"huge )?fan of|am sick of|can not get used to|could never stand) (?!to\b)(?P<value>.+)",
        positive=False,
        listed=True,
    ),
    _predicate(
        "likes",
        r"(?:like|love|adore|enjoy|am (?:very |really |so |quite )?(?:fond of|keen on|into|crazy about|mad about|"
        r"passionate about|obsessed with|partial to|interested in)|am (?:a|an) (?:big |huge |great |massive |real |"
        r"lifelong )?(?:fan|lover) of|care for|fell in love with|am a sucker for|have a soft spot for|"
        r"have a weakness for|support) (?!to (?:think|say|believe|imagine|pretend|tell|see|know)|and\b|"
        r"or\b)(?P<value>.+)",
        listed=True,
    ),
    _predicate(
        "likes",
        r"am (?:a|an) (?:big |huge |real |total |massive )*(?!(?:big|huge|great|true|"
        r"massive)\b)(?P<value>[\w-]+(?: [\w-]+)?) (?:lover|fan|enthusiast)",
    ),
    _predicate("plays", rf"(?:play|am learning|have played) (?:the |in a )?(?P<value>(?:{INSTRUMENTS}|{GAMES}))\b.*"),
    _predicate("plays", r"sing (?P<value>in .+)"),
    _predicate(
        "collects",
        r"(?:collect|have been collecting) (?!(?:him|her|them|it|the kids|you|my \w+ (?:from|at))\b)"
        r"(?P<value>.+)",
        listed=True,
    ),
)
