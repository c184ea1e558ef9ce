"""The bundled model itself: exactness of scoring, mixtures of adapters, and agreement with torch and PEFT.

What quantised arithmetic explains: with Q8_0 weights llama.cpp rounds activations to 8 bits, and any
difference in the last bit of a float ends as 0.06 to 0.09 nats (root mean square) per token on this model. So
the exactness of the mixture and of the row permutation is shown on the same weights held as float32, and on
Q8_0 against that floor.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.adapters.adapter_file import mix_adapters
from edge_runtime.engine.activation import activation_start
from edge_runtime.engine.engine import Activation, Adapter, ChatMessage, Engine
from edge_runtime.engine.lookup import PromptLookup
from edge_runtime.engine.state_store import StateStore
from edge_runtime.models.catalogue import describe_model, find_model, requantise
from edge_runtime.store.vault import Vault
from tests.edge_runtime.model_helpers import REAL_SHAPES, load_factors, needs_bundled_model, random_factors

pytestmark = needs_bundled_model

TEXT = (
    "The ferry left the harbour at dawn, and nobody on deck said a word until the lighthouse was behind "
    "them. Then the cook brought out tea and a loaf of dark bread, and people began to tell where they "
    "were going: one to a wedding, one to a job on the oil rigs, and one, she said, just to see whether "
    "the island was still there."
)
NEEDS_TORCH = pytest.mark.skipif(
    importlib.util.find_spec("peft") is None or importlib.util.find_spec("torch") is None,
    reason="torch and peft are not installed",
)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.open(find_model(), context_tokens=512, threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def float_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The weights of the Q8_0 file, held as float32 (540 MB, removed afterwards)."""
    path = tmp_path_factory.mktemp("float") / "float.gguf"
    path.write_bytes(requantise(find_model().path.read_bytes(), "f32"))
    with Engine.open(describe_model(path), context_tokens=512, threads=1) as opened:
        yield opened
    path.unlink()


def _tokens(engine: Engine) -> list[int]:
    return engine.tokenise(TEXT, special=False)


def _score(engine: Engine) -> np.ndarray:
    tokens = _tokens(engine)
    return engine.score(tokens[:10], [tokens[10:]])[0]


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def test_a_score_does_not_depend_on_the_split(engine: Engine) -> None:
    """Equal to the last bit on Q8_0 (llama.cpp for x86); side by side in several sequences it would be 0.1 to
    0.5.
    """
    tokens = _tokens(engine)
    whole = engine.score(tokens[:1], [tokens[1:]])[0]
    for cut in (2, 20, 33):
        parts = engine.score(tokens[:cut], [tokens[cut:], tokens[cut : cut + 2], tokens[cut : cut + 7]])
        for part in parts:
            np.testing.assert_allclose(part, whole[cut - 1 : cut - 1 + len(part)], atol=1e-6)


def test_the_model_knows_english(engine: Engine) -> None:
    tokens = _tokens(engine)
    shuffled = [int(token) for token in np.random.default_rng(0).permutation(tokens[10:])]
    as_written, as_shuffled = engine.score(tokens[:10], [tokens[10:], shuffled])
    assert 2.0 < -as_written.mean() < 4.5 < -as_shuffled.mean()


def test_it_answers_in_its_own_template(engine: Engine) -> None:
    prompt = engine.chat_prompt([ChatMessage("user", "What is the capital of France? Answer in one sentence.")])
    pieces = list(engine.generate(engine.tokenise(prompt), max_tokens=24))
    assert len(pieces) > 1 and "Paris" in "".join(pieces)


def test_drafts_from_a_source_change_nothing_in_float32(float_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """And they are right most of the time where the answer repeats the source."""
    accepted: list[int] = []
    verified = PromptLookup.verified

    def counted(lookup: PromptLookup, drafted: int, agreed: int) -> None:
        accepted.append(agreed)
        verified(lookup, drafted, agreed)

    monkeypatch.setattr(PromptLookup, "verified", counted)
    question = f"Repeat this text word for word:\n{TEXT}"
    prompt = float_engine.tokenise(float_engine.chat_prompt([ChatMessage("user", question)]))
    plain = "".join(float_engine.generate(prompt, max_tokens=40))
    assert "".join(float_engine.generate(prompt, max_tokens=40, lookup=True)) == plain
    assert sum(accepted) > 5


def test_swapping_adapters_gives_what_a_fresh_engine_gives(float_engine: Engine, tmp_path: Path) -> None:
    """Logits after swaps through two adapters, their activated forms and a saved prefix, against evaluation from
    nothing; 0.03 stated (0.016 measured: cache and flash attention are float16), where the adapters move logits by more
    than 0.5.
    """
    prompt = float_engine.tokenise(float_engine.chat_prompt([ChatMessage("user", TEXT)]))
    one, other = (
        load_factors(
            float_engine,
            random_factors(seed, shapes=REAL_SHAPES, layers=range(22, 30), rank=4, size=0.2),
            alpha=0.0,
        )
        for seed in (0, 1)
    )
    settings: list[tuple[list[tuple[Adapter, float]], Activation]] = [
        ([], "always"),
        ([(one, 1.0)], "always"),
        ([(one, 1.0)], "answer"),
        ([(other, 1.0)], "answer"),
        ([(one, 0.5), (other, 0.5)], "always"),
    ]
    sequences = float_engine._generation_sequences()

    def logits(index: int) -> np.ndarray:
        float_engine.use_adapters(settings[index][0], activation=settings[index][1])
        sequences.fill(float_engine._in_use.segments(prompt))
        return np.array(sequences.context.logits(1)[0])

    fresh = []
    for index in range(len(settings)):
        float_engine.forget_texts()
        fresh.append(logits(index))
    assert min(np.abs(a - b).max() for i, a in enumerate(fresh) for b in fresh[:i]) > 0.5
    with Vault.open(tmp_path, bytes(32)) as vault:
        store = StateStore(vault, tmp_path / "states", 1 << 28)
        float_engine.use_adapters([])
        assert float_engine.save_prefix(store, prompt[:-4])
        float_engine.forget_texts()
        assert float_engine.restore_prefix(store, prompt[:-4]) == len(prompt) - 4
    for index in (0, 1, 2, 3, 4, 2, 1, 0, 3):
        np.testing.assert_allclose(logits(index), fresh[index], atol=0.03)
    float_engine.use_adapters([])


def test_several_adapters_with_scales_equal_one_mixture_in_float32(float_engine: Engine) -> None:
    """Stated tolerance: 1e-3 nats per token root mean square, 5e-3 at most, where the adapters' effect is 0.15. Keys
    and values are rounded to float16, so the worst token depends on the processor: 0.0004 and 0.0011 on two.
    """
    difference, effect = _mixture_difference(float_engine)
    assert _root_mean_square(effect) > 0.1
    assert _root_mean_square(difference) < 1e-3 and np.abs(difference).max() < 5e-3


def test_several_adapters_with_scales_equal_one_mixture_on_q8_0(engine: Engine) -> None:
    """Within the floor of 8-bit activations: 0.06 root mean square measured, 0.2 stated; means within 0.03."""
    difference, effect = _mixture_difference(engine)
    assert _root_mean_square(effect) > _root_mean_square(difference)
    assert _root_mean_square(difference) < 0.2 and abs(difference.mean()) < 0.03


def _mixture_difference(engine: Engine) -> tuple[np.ndarray, np.ndarray]:
    """(K adapters with scales minus the one mixture, K adapters minus the base), log-probabilities per token."""
    layers = range(22, 30)
    parts = [
        (random_factors(seed, shapes=REAL_SHAPES, layers=layers, rank=4, size=0.06), weight)
        for seed, weight in ((0, 0.7), (1, -0.4), (2, 1.1))
    ]
    engine.use_adapters([])
    base = _score(engine)
    engine.use_adapters([(load_factors(engine, factors, alpha=0.0), weight) for factors, weight in parts])
    several = _score(engine)
    engine.use_adapters([(load_factors(engine, mix_adapters(parts), alpha=0.0), 1.0)])
    mixed = _score(engine)
    engine.use_adapters([])
    np.testing.assert_array_equal(_score(engine), base)
    return several - mixed, several - base


@NEEDS_TORCH
def test_an_adapter_on_q_and_k_does_in_llama_cpp_what_it_does_in_peft(
    engine: Engine, float_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PEFT on transformers' model of the same GGUF, against llama.cpp with the exported adapter.

    Measured root mean square difference per token, in nats, where the adapter's effect is 1.16: on the
    weights as float32 0.001 for the base and 0.0015 with the adapter (at most 0.005; llama.cpp keeps keys and
    values as float16), on Q8_0 0.08 and 0.09 (8-bit activations). Without the row permutation it is 1.3, more
    than the effect.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    path = find_model().path
    tokens = _tokens(engine)
    model = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32)

    def torch_score(scored: torch.nn.Module) -> np.ndarray:
        with torch.no_grad():
            logs = torch.log_softmax(scored(torch.tensor([tokens])).logits[0, 9:-1], dim=-1)
        return logs.gather(1, torch.tensor(tokens[10:])[:, None])[:, 0].numpy()

    torch_base = torch_score(model)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "k_proj"]))
    generator, factors = torch.Generator().manual_seed(0), {}
    for name, module in adapted.named_modules():
        if name.endswith(("q_proj", "k_proj")):
            left, right = module.lora_A["default"].weight, module.lora_B["default"].weight
            with torch.no_grad():
                left.normal_(0, 576**-0.5, generator=generator)
                right.normal_(0, 0.4, generator=generator)
            layer, kind = name.split(".layers.")[1].split(".")[0], name[-6]
            factors[f"blk.{layer}.attn_{kind}"] = (
                left.detach().numpy().copy(),
                right.detach().numpy().copy(),
            )
    torch_adapted = torch_score(adapted)
    effect = _root_mean_square(torch_adapted - torch_base)

    for tested, floor in ((float_engine, 0.005), (engine, 0.2)):
        base = _score(tested)
        tested.use_adapters([(load_factors(tested, factors, alpha=8.0), 1.0)])
        with_adapter = _score(tested)
        with monkeypatch.context() as patched:
            patched.setattr("edge_runtime.adapters.adapter_file._PERMUTED_ARCHITECTURE", "none")
            unpermuted = load_factors(tested, factors, alpha=8.0)
        tested.use_adapters([(unpermuted, 1.0)])
        without_permutation = _score(tested)
        tested.use_adapters([])
        assert _root_mean_square(base - torch_base) < floor
        assert _root_mean_square(with_adapter - torch_adapted) < floor
        assert _root_mean_square(without_permutation - torch_adapted) > 0.5 * effect > 2 * floor


@NEEDS_TORCH
def test_an_activated_adapter_begins_where_it_begins_in_torch(float_engine: Engine) -> None:
    """The prompt's keys and values from the base model, the header and the answer through PEFT, against llama.cpp.

    Measured root mean square difference per token 0.0015 nats; one token earlier 0.037, one later 0.016.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    path = find_model().path
    question = float_engine.chat_prompt([ChatMessage("user", "Where were they going?")])
    tokens = float_engine.tokenise(question + TEXT)
    start = activation_start(tokens, float_engine.answer_header)
    model = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=4, target_modules=["v_proj"]))
    generator, factors = torch.Generator().manual_seed(0), {}
    for name, module in adapted.named_modules():
        if name.endswith("v_proj"):
            left, right = module.lora_A["default"].weight, module.lora_B["default"].weight
            with torch.no_grad():
                left.normal_(0, 576**-0.5, generator=generator)
                right.normal_(0, 0.3, generator=generator)
            layer = name.split(".layers.")[1].split(".")[0]
            factors[f"blk.{layer}.attn_v"] = (left.detach().numpy().copy(), right.detach().numpy().copy())

    def torch_score(boundary: int) -> np.ndarray:
        with torch.no_grad():
            with adapted.disable_adapter():
                prompt = adapted(torch.tensor([tokens[:boundary]]), use_cache=True)
            answer = adapted(torch.tensor([tokens[boundary:]]), past_key_values=prompt.past_key_values)
            logs = torch.log_softmax(torch.cat([prompt.logits, answer.logits], dim=1)[0, :-1], dim=-1)
        return np.asarray(logs.gather(1, torch.tensor(tokens[1:])[:, None])[:, 0])

    float_engine.use_adapters([(load_factors(float_engine, factors, alpha=4.0), 1.0)], activation="answer")
    served = float_engine.score(tokens[:1], [tokens[1:]])[0]
    float_engine.use_adapters([])
    trained, earlier, later = (torch_score(boundary)[start - 2 :] for boundary in (start, start - 1, start + 1))
    difference = _root_mean_square(served[start - 2 :] - trained)
    assert difference < 0.01
    for shifted in (earlier, later):
        assert _root_mean_square(shifted - trained) > 5 * difference
