"""Invented reports for the tests: plausible figures, no run behind them."""

from __future__ import annotations

from typing import Any

PEOPLE = (
    "Anselm",
    "Bea",
    "Carmen",
    "Colm",
    "Deniz",
    "Elias",
    "Finn",
    "Folake",
    "Grace",
    "Gus",
    "Hana",
    "Idris",
    "Jonas",
    "Kirsi",
    "Leonie",
    "Marek",
    "Nadia",
    "Oskar",
    "Priya",
    "Quentin",
    "Rosa",
    "Sven",
    "Tamsin",
    "Uli",
)
INJECTION = "<script>alert('x')</script> & <img src=x onerror=alert(1)>"


def arm(loss: float, gain: float, spread: float, newcomer_gain: float | None = None) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "loss": loss,
        "interval": [loss - 0.11, loss + 0.12],
        "gain": gain,
        "gain_interval": [gain - spread, gain + spread],
        "by_kind": {"message": loss + 0.3, "fact": loss - 0.4},
    }
    if newcomer_gain is not None:
        interval = [newcomer_gain - 2 * spread, newcomer_gain + 2 * spread]
        entry["newcomers"] = {"people": 6, "gain": newcomer_gain, "gain_interval": interval}
    return entry


def invented_report(*, noise: bool = True) -> dict[str, Any]:
    """A whole report: 24 people and 6 newcomers, 7 rounds, 4 bases of which one stands above the noise."""
    rounds = []
    for place in range(7):
        kind = "shared" if place < 4 else "bases"
        rounds.append(
            {
                "round": place,
                "kind": kind,
                "cohort": 24,
                "survivors": 24 - place % 3,
                "clip_norm": 0.1 - 0.004 * place,
                "fraction_not_clipped": 0.46 + 0.02 * place,
                "mean_loss": 3.61 - 0.02 * place,
                "snr": 0.93 if kind == "shared" else 0.47,
                "epsilon_after": round(4.1 + 1.376 * place**0.8, 2),
            }
        )
    return {
        "title": "Penchant demo: the village",
        "created": "2026-01-15T10:20:30+00:00",
        "command": "penchant demo --people 24 --rounds 7 --out demo",
        "model": {"name": "smollm2-135m", "sha256": "ab" * 32, "quantisation": "q8_0"},
        "frame": {
            "sha256": "cd" * 32,
            "rank": 4,
            "modules": 8,
            "dimension": 128,
            "bytes": 81_920,
            "kinds": ["attn_v", "ffn_down"],
            "top_layers": 4,
        },
        "people": 30,
        "fleet": 24,
        "newcomers": 6,
        "rounds": 7,
        "round_log": rounds,
        "arms": {
            "none": arm(3.612, 0.0, 0.0),
            "rag": arm(3.301, 0.0861, 0.012, 0.081),
            "shared": arm(3.571, 0.0114, 0.004, 0.0102),
            "personal": arm(3.560, 0.0144, 0.006),
            "bases": arm(3.594, 0.0050, 0.0071, 0.003),
            "rag+shared": arm(3.254, 0.0991, 0.013, 0.094),
            "rag+bases": arm(3.231, 0.1062, 0.0135, 0.0977),
        },
        "controls": {
            "stranger_memory": {**arm(3.655, -0.0119, 0.0042), "compared_with": "none"},
            "stranger_memory+bases": {**arm(3.66, -0.0184, 0.0052), "compared_with": "bases"},
            "stranger_adapter": {**arm(3.602, -0.0118, 0.0151), "compared_with": "personal"},
        },
        "privacy": {
            "noise": noise,
            "epsilon": 9.87 if noise else None,
            "delta": 1e-3,
            "unit": "one person",
            "neighbours": "one person's contributions replaced by zero",
            "mechanism": "distributed Skellam",
            "noise_multiplier": 2.29 if noise else 0.0,
            "clip": {"shared": 0.076, "bases": 0.1},
            "sampling": "every person in every round, no amplification claimed",
            "snr": 0.47 if noise else None,
            "epsilon_rdp": 10.4 if noise else None,
            "epsilon_prv": None,
            "spend": [{k: r[k] for k in ("round", "kind", "epsilon_after")} for r in rounds] if noise else [],
            "fleet_of_1000": {"snr": 19.6, "epsilon": 9.87, "noise_multiplier": 2.29},
            "contributions_counted": "update, clip bit, loss and count of every round",
        },
        "wire": {
            "up_bytes": 7412.0,
            "down_bytes": 15_240.5,
            "setup_down_bytes": 84_310,
            "up_by_stage": {"setup": 310, "advertise": 512, "share": 4420, "collect": 902, "unmask": 1268},
            "down_by_stage": {
                "advertise": 1040,
                "share": 8200,
                "collect": 4700,
                "unmask": 1300,
            },
            "limit_up_bytes": 10_000,
        },
        "secure_aggregation": {
            "cohort": 24,
            "minimum_survivors": 16,
            "threshold": 8,
            "degree": 23,
            "dropouts_survived": 6,
            "ring_bits": 16,
        },
        "bases": {
            "count": 4,
            "spectrum": [0.412, 0.221, 0.173, 0.14],
            "noise_floor": 0.305 if noise else 0.0,
            "weights": {
                name: [
                    round(0.6 * (-1) ** (i * (k + 2) % 3) * (1 + (7 * i + 3 * k) % 5) / 5 / (k + 1), 3)
                    for k in range(4)
                ]
                for i, name in enumerate(PEOPLE)
            },
        },
        "samples": [
            {
                "question": "What should I cook on Friday?",
                "people": [
                    {
                        "name": "Bea",
                        "about": "33, primary school teacher; warm, encouraging, emoji, little rhymes",
                        "answers": {
                            "none": "You could cook a simple pasta dish with tomato sauce, or a stir-fry.",
                            "rag": "You said the class party is on Friday, so make the carrot muffins again!",
                            "rag+bases": "Carrot muffins, superstar! 🥕 Class party on Friday, hooray.",
                        },
                    },
                    {
                        "name": "Gus",
                        "about": "a lorry driver of few words",
                        "answers": {
                            "none": "You could cook a simple pasta dish with tomato sauce.",
                            "rag": INJECTION,
                            "rag+bases": "Chops. Buy mustard.\nNo peas.",
                        },
                    },
                    {
                        "name": "Priya <b>",
                        "about": "a night nurse",
                        "answers": {
                            "none": "A vegetable curry is easy and can be prepared in advance.",
                            "rag": "You are on nights until Friday. Freeze the dal on Wednesday.",
                            "rag+bases": "Dal from the freezer. You come off nights, so nothing longer.",
                        },
                    },
                ],
            }
        ],
        "seconds": {"total": 251.7, "training": 131.0, "rounds": 62.5, "scoring": 44.2, "answers": 14.0},
        "peak_memory_mb": 1893.4,
        "seed": 7,
        "versions": {"penchant": "0.1.0", "torch": "2.13.0", "flwr": "1.41.0", "llama-cpp-python": "0.3.36"},
    }


def smallest_report() -> dict[str, Any]:
    """Only what is required."""
    whole = invented_report()
    required = (
        "model",
        "people",
        "rounds",
        "arms",
        "controls",
        "privacy",
        "wire",
        "secure_aggregation",
        "seconds",
        "seed",
        "versions",
    )
    report = {key: whole[key] for key in required}
    report["arms"] = {
        name: {key: entry[key] for key in ("loss", "interval", "gain", "gain_interval")}
        for name, entry in whole["arms"].items()
    }
    report["controls"] = {}
    for key in (
        "neighbours",
        "epsilon_rdp",
        "epsilon_prv",
        "spend",
        "fleet_of_1000",
        "contributions_counted",
    ):
        del report["privacy"][key]
    report["wire"] = {"up_bytes": 7412, "down_bytes": 15_240}
    report["secure_aggregation"] = {"cohort": 24, "threshold": 8, "dropouts_survived": 0}
    return report
