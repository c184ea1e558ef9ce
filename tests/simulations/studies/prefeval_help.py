"""A small PrefEval in the original form: three topics of two kinds, invented."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TOPICS = {"food_dishes": ("cinnamon", "dill"), "food_drinks": ("cola", "milk"), "travel_trains": ("buses", "planes")}


def rows_of(topic: str) -> list[dict[str, Any]]:
    return [
        {
            "preference": f"I strongly dislike {thing}.",
            "question": f"What would you suggest to me about {topic} {number}?",
            "explanation": "It would be careless.",
        }
        for number, thing in enumerate(TOPICS[topic])
    ]


def write_prefeval(folder: Path) -> Path:
    """All three forms."""
    for topic, things in TOPICS.items():
        rows = rows_of(topic)
        options = [
            {**row, "classification_task_options": ["Plain ones.", f"More {thing}.", f"Only {thing}.", f"Old {thing}."]}
            for row, thing in zip(rows, things, strict=True)
        ]
        chosen = [
            {
                **row,
                "conversation": {
                    "query": f"How do I plan a day with {topic}?",
                    "assistant_options": f"1. {topic} at noon 2. {topic} at night",
                    "user_selection": f"The first, I do not like {thing}.",
                    "assistant_acknowledgment": "Understood.",
                },
            }
            for row, thing in zip(rows, things, strict=True)
        ]
        talked = [
            {
                **row,
                "conversation": {
                    "1": {"user": f"I do not like {thing} at all.", "assistant": "I see."},
                    "0": {"user": "Good evening.", "assistant": "Good evening to you."},
                    "10": {"user": "Bye.", "assistant": "Bye."},
                },
            }
            for row, thing in zip(rows, things, strict=True)
        ]
        for place, content in (
            ("mcq_options", options),
            ("implicit_preference/choice-based", chosen),
            ("implicit_preference/persona-driven", talked),
        ):
            (folder / place).mkdir(parents=True, exist_ok=True)
            (folder / place / f"{topic}.json").write_text(json.dumps(content), "utf-8")
    return folder
