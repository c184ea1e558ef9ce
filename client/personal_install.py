"""The end of a personal training: the adapter's file, and its place in the log if the gate let it pass."""

from __future__ import annotations

from client.lifelong import LifelongRecord, keep_record
from client.personal_gate import Verdict
from client.training_run import check_kept, drop_state
from edge_runtime.adapters.adapter_file import AdapterMetadata, Factors, write_adapter
from edge_runtime.adapters.log import AdapterLog, AdapterVersion
from edge_runtime.adapters.versions import record_losses
from edge_runtime.models.catalogue import ModelFile, read_model_shape
from edge_runtime.store.vault import Vault


def adapter_file(
    model: ModelFile,
    factors: Factors,
    *,
    alpha: float,
    frame_sha256: str,
    parent_sha256: str,
    epsilon: float | None,
    created: str,
) -> bytes:
    """The adapter as a GGUF for ``model``; ``epsilon`` None: it claims no privacy."""
    shape = read_model_shape(model.path)
    metadata = AdapterMetadata(
        base_sha256=model.sha256,
        frame_sha256=frame_sha256,
        parent_sha256=parent_sha256,
        epsilon=epsilon,
        created=created,
    )
    return write_adapter(
        factors,
        alpha=alpha,
        metadata=metadata,
        architecture=shape.architecture,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
    )


def conclude(
    vault: Vault, live_id: int | None, data: bytes, verdict: Verdict, record: LifelongRecord, *, note: str
) -> AdapterVersion | None:
    """Keep what both were judged by, put the adapter in place if it passed, with the record that the next training goes
    on from, and end the run, all in one step.

    Raises PenchantError if something was forgotten while the run went on: nothing of it is kept then.
    """
    installed = None
    with vault.transaction():
        check_kept(vault)
        record_losses(vault, None, verdict.alone_losses)
        if live_id is not None:
            record_losses(vault, live_id, verdict.live_losses)
        if verdict.accepted:
            installed = AdapterLog(vault).install(data, note=note, serves=verdict.serves)
            record_losses(vault, installed.id, verdict.candidate_losses)
            keep_record(vault, installed.sha256, record)
        drop_state(vault)
    return installed
