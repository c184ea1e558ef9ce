"""The words that claims are read with: relatives, animals, things, trades, languages, days; as parts of regular
expressions. Also where a value ends, and which values say nothing by themselves.

Lists, not guesses: an English text says "I am a" before a hundred things that are no trade.
"""

from __future__ import annotations

import re
from typing import Final

RELATIVES: Final = (
    "mother|mum|mom|mam|father|dad|wife|husband|spouse|partner|girlfriend|boyfriend|fiancée|fiancé|fiancee|fiance|"
    "boss|manager|landlord|landlady|dentist|doctor|therapist|teacher|flatmate|roommate|grandmother|grandma|"
    "gran|granny|grandfather|grandpa|grandad|mother-in-law|father-in-law"
)
# Of these a person may have several, so a second name does not close the first.
SEVERAL_RELATIVES: Final = (
    "sister|brother|son|daughter|child|kid|baby|twin|cousin|aunt|auntie|uncle|niece|nephew|grandson|granddaughter|"
    "grandchild|friend|best friend|neighbour|neighbor|colleague|coworker|co-worker|teammate|student|housemate|"
    "stepson|stepdaughter|stepsister|stepbrother|half-sister|half-brother|sister-in-law|brother-in-law|"
    "son-in-law|daughter-in-law|godson|goddaughter|godmother|godfather"
)
PLURAL_RELATIVES: Final = (
    "parents|grandparents|kids|children|sons|daughters|sisters|brothers|twins|neighbours|neighbors|friends|"
    "colleagues|cousins|in-laws|grandchildren|flatmates"
)
PETS: Final = (
    "dog|puppy|pup|cat|kitten|rabbit|hamster|guinea pig|parrot|budgie|canary|horse|pony|donkey|goldfish|tortoise|"
    "turtle|ferret|snake|gecko|lizard|hen|chicken|goat|sheep|cow|goose|duck|rat|mouse|greyhound|labrador|terrier|"
    "spaniel|collie|poodle|dachshund|whippet"
)
THINGS: Final = (
    "car|van|truck|bike|bicycle|motorbike|motorcycle|scooter|boat|canoe|kayak|caravan|camper|campervan|tractor|"
    "house|flat|apartment|cottage|cabin|garden|allotment|greenhouse|workshop|farm|shop|bakery|café|cafe|restaurant|"
    "studio|"
    "piano|cello|violin|viola|guitar|flute|drum kit|saxophone|trumpet|accordion|harp|organ|laptop|phone|computer|"
    "tablet|camera|telescope|printer|sewing machine|loom|kiln|bread machine|coffee machine|espresso machine|"
    "record player|tent|surfboard|skateboard|snowboard|solar panels|heat pump|wheelchair|hearing aid|"
    "hearing aids|glasses|e-bike|cargo bike|beehives?|wood stove"
)
PLURAL_ANIMALS: Final = f"(?:{PETS})s?|mice|geese|puppies|ponies|goldfish|bees|fish|pets?"
NUMBER: Final = r"an?|any|one|two|three|four|five|six|seven|eight|nine|ten|twelve|\d+|no|some|several"
CAPITAL: Final = r"(?-i:[A-Z])"
NAME: Final = rf"{CAPITAL}[\w'’-]*(?: {CAPITAL}[\w'’-]+){{0,2}}"
PLACE: Final = (
    rf"(?=(?:[\w'-]+ ){{0,4}}?(?:{CAPITAL}|(?:flat|house|apartment|village|town|city|suburbs?|countryside|boat|farm|"
    r"cabin|studio|cottage|houseboat|coast|mountains|dorm|bungalow|caravan|tower|basement|lighthouse)\b)).+"
)
DAYS: Final = (
    r"(?:mon|tues|wednes|thurs|fri|satur|sun)day|mon|tue|wed|thu|fri|sat|sun|day|morning|afternoon|evening|night|"
    r"week|"
    r"weekend|month|year|winter|summer|spring|autumn|lunchtime"
)
FREQUENCY: Final = (
    rf"(?:\b(?:on\s+)?(?:(?:{DAYS})s?(?:,| and| or|/)\s*)*"
    r"(?:mondays|tuesdays|wednesdays|thursdays|fridays|saturdays|sundays|weekends|weekdays)\b"
    rf"|\b(?:every|each|most)\s+(?:other\s+|second\s+|single\s+|first\s+)?(?:{DAYS})s?\b"
    r"|\b(?:once|twice|three times|four times|five times|\w+ times) (?:a|per) (?:day|week|month|year)\b"
    r"|\bin the (?:mornings|evenings|afternoons)\b|\b(?:daily|weekly|nightly)\b|\bat weekends\b|\bevery \w+ hours?\b)"
)
WHEN: Final = (
    r"(?:\b(?:on|this|next|in|by|until|from)\s+(?:the\s+)?(?:\d{1,2}(?:st|nd|rd|th)?\b|mon|tue|wed|thu|fri|sat|"
    r"sun|jan|"
    r"feb|march|april|may|june|july|aug|sep|oct|nov|dec|week|month|year|summer|winter|spring|autumn|end|day|20\d\d|"
    r"weekend|two|three)[\w ]*|\btomorrow\b|\btonight\b|\bsoon\b)"
)
LATER: Final = (
    r"\b(?:in|next|from|this) (?:(?:the )?(?:january|february|march|april|may|june|july|august|september|october|"
    r"november|december|summer|winter|spring|autumn|year|month|20\d\d))\b.*"
)
MONTHS: Final = (
    "january|february|march|april|may|june|july|august|september|october|november|december|jan|feb|mar|apr|jun|"
    "jul|aug|sept?|oct|nov|dec"
)
OCCUPATION: Final = (
    r"(?:[\w'&-]+ ){0,3}?(?:nurse|doctor|vet|teacher|chef|cook|baker|farmer|engineer|developer|programmer|designer|"
    r"lawyer|solicitor|barrister|judge|accountant|bookkeeper|architect|carpenter|joiner|plumber|electrician|"
    r"mechanic|welder|builder|bricklayer|roofer|painter|driver|pilot|sailor|fisherman|fisher|soldier|firefighter|"
    r"paramedic|midwife|surgeon|dentist|pharmacist|physiotherapist|therapist|psychologist|psychiatrist|scientist|"
    r"researcher|physicist|chemist|biologist|botanist|mathematician|statistician|economist|historian|"
    r"archaeologist|geologist|professor|lecturer|tutor|librarian|archivist|curator|journalist|reporter|editor|writer|"
    r"novelist|poet|translator|interpreter|photographer|musician|pianist|cellist|violinist|singer|actor|"
    r"actress|director|producer|dancer|sculptor|potter|weaver|tailor|seamstress|cobbler|luthier|blacksmith|"
    r"goldsmith|jeweller|clerk|secretary|receptionist|cashier|waiter|waitress|barista|bartender|butcher|florist|"
    r"gardener|forester|ranger|shepherd|beekeeper|brewer|winemaker|hairdresser|barber|beautician|cleaner|caretaker|"
    r"janitor|porter|courier|postman|postwoman|trucker|conductor|guard|officer|inspector|detective|analyst|"
    r"consultant|manager|administrator|assistant|apprentice|intern|trainee|student|pensioner|postdoc|technician|"
    r"operator|surveyor|planner|salesman|saleswoman|shopkeeper|trader|banker|broker|adviser|advisor|coach|trainer|"
    r"instructor|lifeguard|priest|pastor|vicar|rabbi|imam|monk|nun|social worker|care worker|warehouse worker|"
    r"factory worker|nanny|au pair|childminder|stay-at-home (?:mum|mom|dad|parent)|freelancer|optician|radiographer|"
    r"veterinarian|zookeeper|tram driver|plasterer|glazier|locksmith|watchmaker|printer|bookbinder|ceramicist|"
    r"illustrator|animator|composer|sommelier|principal|headteacher|headmaster|mayor|councillor)"
)
DEMONYMS: Final = (
    "French|German|Italian|Spanish|Portuguese|Dutch|Belgian|Swiss|Austrian|Polish|Czech|Slovak|Hungarian|Romanian|"
    "Bulgarian|Greek|Turkish|Russian|Ukrainian|Estonian|Latvian|Lithuanian|Finnish|Swedish|Norwegian|Danish|"
    "Icelandic|"
    "Irish|Scottish|Welsh|English|British|American|Canadian|Mexican|Brazilian|Argentinian|Chilean|Peruvian|Colombian|"
    "Cuban|Chinese|Japanese|Korean|Vietnamese|Thai|Indian|Pakistani|Bangladeshi|Nepali|Sri Lankan|Indonesian|"
    "Malaysian|"
    "Filipino|Australian|New Zealander|Kenyan|Nigerian|Ghanaian|Ethiopian|Egyptian|Moroccan|Tunisian|Algerian|"
    "South African|Israeli|Lebanese|Syrian|Iranian|Iraqi|Afghan|Catalan|Basque|Breton|Croatian|Serbian|Slovenian|"
    "Jewish|Muslim|Catholic|Buddhist|Hindu|Sikh|Protestant|Orthodox|Quaker|Christian|Persian"
)
LANGUAGES: Final = (
    "English|French|German|Italian|Spanish|Portuguese|Dutch|Polish|Czech|Slovak|Hungarian|Romanian|Bulgarian|Greek|"
    "Turkish|Russian|Ukrainian|Estonian|Latvian|Lithuanian|Finnish|Swedish|Norwegian|Danish|Icelandic|Irish|Welsh|"
    "Gaelic|Arabic|Hebrew|Persian|Farsi|Urdu|Hindi|Bengali|Tamil|Telugu|Punjabi|Chinese|Mandarin|Cantonese|Japanese|"
    "Korean|Vietnamese|Thai|Indonesian|Malay|Tagalog|Swahili|Yoruba|Igbo|Amharic|Catalan|Basque|Breton|Croatian|"
    "Serbian|Slovenian|Latin|Esperanto|Yiddish|(?:British |American )?sign language|Albanian|Galician|Armenian|"
    "Georgian"
)
CONDITIONS: Final = (
    r"(?:type (?:1|2|one|two) )?diabetes|asthma|migraines?|epilepsy|arthritis|hay fever|eczema|psoriasis|anxiety|"
    r"depression|insomnia|tinnitus|adhd|dyslexia|autism|high blood pressure|low blood pressure|hypertension|"
    r"coeliac disease|celiac disease|crohn's(?: disease)?|ibs|endometriosis|sciatica|scoliosis|osteoporosis|vertigo|"
    r"sleep apnoea|sleep apnea|an? (?:bad|weak|herniated|artificial|new|dodgy) (?:back|knee|hip|shoulder|heart|disc)|"
    r"a pacemaker|glaucoma|cataracts|anaemia|anemia|high cholesterol|gout|long covid|a heart condition|"
    r"a stammer|a stutter|a thyroid condition|hypothyroidism|lupus|multiple sclerosis|parkinson's(?: disease)?|cancer"
)
STATES: Final = (
    "diabetic|asthmatic|epileptic|colou?r-?blind|deaf|blind|hard of hearing|pregnant|left-handed|right-handed|"
    "autistic|"
    "dyslexic|short-sighted|long-sighted|anaemic|anemic|an insomniac|a smoker|a non-smoker|a night owl|an early bird|"
    "a morning person"
)
DIETS: Final = (
    "vegan|vegetarian|pescatarian|coeliac|celiac|teetotal|lactose[- ]intolerant|gluten[- ]free|halal|kosher|"
    "dairy[- ]free|keto|flexitarian"
)
INSTRUMENTS: Final = (
    "cello|violin|viola|piano|guitar|bass|double bass|flute|clarinet|oboe|bassoon|trumpet|trombone|horn|tuba|"
    "drums|harp|"
    "organ|accordion|saxophone|ukulele|banjo|mandolin|fiddle|recorder|lute|sitar|oud"
)
GAMES: Final = (
    "chess|go|bridge|poker|tennis|football|soccer|rugby|cricket|hockey|basketball|volleyball|handball|badminton|"
    "table tennis|squash|golf|darts|bowls|snooker|pool|baseball|softball|netball|padel|water polo|backgammon|scrabble"
)
EVENT: Final = (
    "exam|test|interview|appointment|meeting|concert|flight|recital|wedding|operation|surgery|check-?up|deadline|"
    "presentation|birthday|race|audition|rehearsal|viva|match|party|shift|date|class|lesson|trip|holiday|baptism|scan"
)
_VALUE_ENDS = (
    r"\s*(?:[;:!?()]|\.(?:\s|$)|…|\s[-–—]+\s|[,\s]\s*\b(?:because|but|when|while|which|who|whom|whose|where|"
    r"although|though|after|"
    r"before|until|so|if|since|as|unless|except|than ever|thanks|even|especially|nor|ever since|whenever|about to)\b)"
)
PHRASE_END: Final = re.compile(
    r"[;:!?()…]|\s[-–—]+\s|\.(?:\s|$)|[,\s]\s*\b(?:because|but|when|while|which|who|whose|where|although|though|"
    r"if|unless|"
    r"until|so (?:no|i|my|the|that|we|it))\b",
    re.IGNORECASE,
)
VALUE_END: Final = re.compile(_VALUE_ENDS, re.IGNORECASE)
VALUE_TAIL: Final = re.compile(
    r"[\s,.]*\b(?:very much|a lot|so+ (?:so+ )*much|(?:a little )?too much|too|as well|these days|nowadays|now|at "
    r"the moment|right now|again|any ?more|any "
    r"longer|at all|lately|recently|still|either|honestly|of course|by the way|please|the most|most of all|the "
    r"best|really|"
    r"with (?:a passion|all my heart)|more than anything|for now|fluently|well|currently|today|this year|last "
    r"(?:year|"
    r"month|week|\w+day|summer|winter|spring|autumn)|this (?:week|month|year|summer|spring|autumn|winter)|"
    r"yesterday|already|"
    r"by heart|for (?:years|ages|a while|(?:\w+ )?(?:many|two|three|four|five|ten|\d+) (?:years|months))|forever|"
    rf"(?:in|since) (?:(?:{MONTHS})\b(?: \d+)?|\d{{4}})|x+|lol|haha|:\)|\d+ years ago|(?:\w+ )?(?:years|months|"
    rf"weeks) ago|"
    r"originally|together|instead|to be honest|tbh|all my life)$",
    re.IGNORECASE,
)
EMPTY_VALUE: Final = re.compile(
    r"an? (?:ton|lot|bit)\b.*|(?:it|this|that|them|him|her|those|these|you|one|everything|nothing|so|to|the|a|an|"
    r"his|their|your|my|how|what|when|"
    r"why|who|being|not)\b(?: (?:one|way|idea|look|sound|fact|thought|so|much|very|there|here))?|the (?:idea|way|"
    r"look|sound|"
    r"fact|thought|feel|new|old|last|first|other|one)\b.*|(?:it|this|that|them|him|her|those|these|how|what|when|"
    r"why|who|"
    r"your|his|their)\b.*",
    re.IGNORECASE,
)
BIRTHDAY: Final = re.compile(rf"(?:on )?(?:the )?(?P<value>.*(?:\d|{MONTHS}).*)", re.IGNORECASE)
DEMONYM: Final = re.compile(DEMONYMS)
