"""Questions with the sources that should answer them, for the planner. One invented person: what they remember, two
documents of theirs, and whether their profile has something to say.

`TUNING` may be looked at when the planner is changed; `HELD_OUT` only measures.
"""

from __future__ import annotations

MEMORIES = (
    "My dog is called Bruno and hates the vacuum cleaner.",
    "Our landlord Mr Petersen fixed the boiler last week.",
    "I am allergic to kiwi fruit and hazelnuts.",
    "My brother Tomas plays the trombone in a brass band.",
    "The spare key is under the blue flower pot.",
    "I started learning Welsh in January.",
    "I work as a nurse on the children's ward in Ghent.",
    "Ines is getting married in Lisbon on 12 June.",
    "I prefer trains to planes, flying makes me anxious.",
    "I parked the car on level three near the lifts.",
    "Ana borrowed my tent and will bring it back in May.",
    "I do not eat meat.",
    "My piano lesson is on Wednesday at six with Mrs Okafor.",
    "I hate horror films, they keep me awake.",
    "I promised Leo to help him move on Saturday.",
)
PASSAGES = (
    "Descaling: fill the tank of the coffee machine with one part vinegar and two parts water, hold both buttons for "
    "five seconds, and let the cycle run twice.",
    "Error E4 means that the drip tray of the coffee machine is full. Empty the tray and press reset.",
    "The tenant gives notice in writing three months before the end of the lease. The deposit is returned within "
    "thirty days.",
    "Pets are allowed in the flat with the written consent of the landlord. Subletting is not permitted.",
    "Bicycles are stored in the cellar, not in the hallway. The rubbish is collected on Thursdays.",
)

# (question, sources that should be among those chosen, sources that must not be)
Expected = tuple[str, frozenset[str], frozenset[str]]


def _memory(*questions: str) -> tuple[Expected, ...]:
    return tuple((question, frozenset({"memory"}), frozenset({"none"})) for question in questions)


def _documents(*questions: str) -> tuple[Expected, ...]:
    return tuple((question, frozenset({"documents"}), frozenset({"none"})) for question in questions)


def _advice(*questions: str) -> tuple[Expected, ...]:
    return tuple((question, frozenset({"profile"}), frozenset({"none"})) for question in questions)


def _none(*questions: str) -> tuple[Expected, ...]:
    return tuple(
        (question, frozenset({"none"}), frozenset({"memory", "documents", "profile"})) for question in questions
    )


TUNING: tuple[Expected, ...] = (
    *_memory(
        "What is my dog called?",
        "Who is my landlord?",
        "Which fruit am I allergic to?",
        "Where is the spare key?",
        "When is Ines getting married?",
        "Who borrowed the tent?",
        "What does Tomas play?",
        "Where did I park?",
        "Write a line to congratulate Ines on her wedding.",
        "What did I promise Leo?",
    ),
    *_documents(
        "How do I descale the coffee machine?",
        "What does error E4 mean?",
        "How long before moving out must I give notice according to the lease?",
        "Does the contract allow subletting?",
        "Where do bicycles go in our building?",
    ),
    *_advice(
        "What should I cook tonight?",
        "Can you recommend a film for this evening?",
        "I'm planning a trip to Vienna, how should I get there?",
        "Suggest a present for my brother.",
        "What dessert could I bring to a party?",
    ),
    *_none(
        "How many days does a week have?",
        "What is the capital of France?",
        "Why is the sky blue?",
        "How do I boil an egg?",
        "Tell me a joke.",
        "Hello!",
        "Thanks, that helps.",
        "What is 12 times 12?",
        "Who wrote Hamlet?",
        "Translate good morning into Spanish.",
        "What does HTTP stand for?",
        "How do planes stay in the air?",
    ),
)
HELD_OUT: tuple[Expected, ...] = (
    *_memory(
        "What instrument does my brother play?",
        "What am I not supposed to eat?",
        "Where do I work?",
        "When is my piano lesson?",
        "Who teaches me the piano?",
        "On which level is the car?",
        "When will Ana bring the tent back?",
        "Which language am I learning?",
        "What is my dog afraid of?",
        "Where is the wedding of Ines?",
    ),
    *_documents(
        "What should I do when the drip tray is full?",
        "When does the deposit come back according to the rental contract?",
        "Are pets allowed in the flat?",
        "How much vinegar goes into the coffee machine for descaling?",
        "On which day is the rubbish collected?",
    ),
    *_advice(
        "Which restaurant would you recommend for a birthday dinner?",
        "What could we watch on Friday night?",
        "I'd like to visit London next month, what is the best way to travel?",
        "Any ideas for a snack to take to work?",
        "I'm looking for a new hobby, what do you suggest?",
    ),
    *_none(
        "How many legs does a spider have?",
        "What is the largest planet?",
        "Explain what a prime number is.",
        "How do plants make energy from light?",
        "Good morning!",
        "How are you?",
        "What is the boiling point of water?",
        "Who was Napoleon?",
        "Write a haiku about autumn.",
        "How do you say thank you in Italian?",
        "What is a leap year?",
        "How far is the moon from the earth?",
    ),
)
