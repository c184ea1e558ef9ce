"""`/api`: what the owner says about themselves and about answers: profile, conversations, feedback."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path

from edge_runtime.adapters.versions import watch
from edge_runtime.api.device_routes import RecordId, existing
from edge_runtime.api.device_schemas import (
    AttributeOut,
    AuditOut,
    Better,
    Choice,
    ConversationId,
    ConversationList,
    FeedbackOut,
    NewAttribute,
    NewRule,
    NewText,
    Noted,
    ProfileOut,
    Removed,
    RuleChange,
    RuleOut,
    SummaryOut,
    Thumb,
    TurnList,
)
from edge_runtime.api.session import Session
from edge_runtime.device import Device

TextId = Annotated[str, Path(max_length=64, description="The id of the record.")]


def person_router(session: Session) -> APIRouter:
    """The routes, for the device of `session`."""
    router = APIRouter(prefix="/api")
    _add_profile(router, session)
    _add_conversations(router, session)
    _add_feedback(router, session)
    return router


def _add_profile(router: APIRouter, session: Session) -> None:
    @router.get("/profile", tags=["profile"], response_model=ProfileOut)
    async def profile() -> Any:
        """What is known about the owner, and what would help to know."""

        def read(device: Device) -> dict[str, Any]:
            known = device.profile
            summary = known.summary()
            return {
                "attributes": [asdict(one) for one in known.attributes()],
                "rules": [asdict(one) for one in known.rules()],
                "summary": None if summary is None else asdict(summary),
                "questions": [asdict(one) for one in known.questions()],
            }

        return await session.run(read)

    @router.put("/profile/attributes", tags=["profile"], response_model=AttributeOut)
    async def set_attribute(body: NewAttribute) -> Any:
        """The owner's word on an attribute: it stands against whatever memories say."""
        return asdict(await session.run(lambda device: device.profile.set_attribute(body.name, body.value)))

    @router.delete("/profile/attributes/{attribute_id}", tags=["profile"], response_model=Removed)
    async def remove_attribute(attribute_id: RecordId) -> Any:
        """Removes an attribute; it does not come back by itself."""
        await session.run(lambda device: existing(lambda: device.profile.remove_attribute(attribute_id)))
        return Removed()

    @router.post("/profile/rules", tags=["profile"], response_model=RuleOut)
    async def add_rule(body: NewRule) -> Any:
        """A rule for all answers from now on."""
        return asdict(await session.run(lambda device: device.profile.add_rule(body.text)))

    @router.patch("/profile/rules/{rule_id}", tags=["profile"], response_model=RuleOut)
    async def change_rule(rule_id: RecordId, body: RuleChange) -> Any:
        """Rewords a rule, or switches it on or off."""
        return asdict(
            await session.run(
                lambda device: existing(lambda: device.profile.change_rule(rule_id, body.text, body.active))
            )
        )

    @router.delete("/profile/rules/{rule_id}", tags=["profile"], response_model=Removed)
    async def remove_rule(rule_id: RecordId) -> Any:
        """Removes a rule."""
        await session.run(lambda device: existing(lambda: device.profile.remove_rule(rule_id)))
        return Removed()

    @router.put("/profile/summary", tags=["profile"], response_model=SummaryOut)
    async def set_summary(body: NewText) -> Any:
        """The owner's own summary; the model does not overwrite it."""
        return asdict(await session.run(lambda device: device.profile.set_summary(body.text)))

    @router.post("/profile/questions/{question_id}", tags=["profile"], response_model=AttributeOut)
    async def answer_question(question_id: TextId, body: NewText) -> Any:
        """Answers one of the questions; the answer is a memory and an attribute."""
        return asdict(
            await session.run(
                lambda device: existing(lambda: device.profile.answer_question(question_id, body.text, device.memory))
            )
        )


def _add_conversations(router: APIRouter, session: Session) -> None:
    @router.post("/conversations", tags=["conversations"], response_model=ConversationId)
    async def new() -> Any:
        """Starts a conversation; name it in `penchant.conversation` to have questions and answers kept."""
        return {"id": await session.run(lambda device: device.conversations.new())}

    @router.get("/conversations", tags=["conversations"], response_model=ConversationList)
    async def listing() -> Any:
        """All conversations, the latest first."""
        found = await session.run(lambda device: device.conversations.listing())
        return {"conversations": [asdict(one) for one in found]}

    @router.get("/conversations/{conversation_id}", tags=["conversations"], response_model=TurnList)
    async def turns(conversation_id: TextId) -> Any:
        """The turns of a conversation, oldest first."""
        found = await session.run(lambda device: existing(lambda: device.conversations.turns(conversation_id)))
        return {"turns": [asdict(one) for one in found]}

    @router.delete("/conversations/{conversation_id}", tags=["conversations"], response_model=Removed)
    async def delete(conversation_id: TextId) -> Any:
        """Removes a conversation. What it taught the device stays; forget memories to remove that."""
        await session.forget(lambda device: existing(lambda: device.conversations.delete(conversation_id)))
        return Removed()

    @router.get("/turns/{turn_id}/audit", tags=["conversations"], response_model=AuditOut)
    async def audit(turn_id: RecordId) -> Any:
        """What went into an answer: query, plan, candidates, profile, adapters, sampling."""
        turn = await session.run(lambda device: existing(lambda: device.conversations.turn(turn_id)))
        return {"turn": turn.id, "audit": turn.audit}


def _add_feedback(router: APIRouter, session: Session) -> None:
    @router.post("/feedback", tags=["feedback"], response_model=Noted, response_model_exclude_unset=True)
    async def feedback(body: Thumb | Better | Choice) -> Any:
        """A thumb, a better wording, or a choice between two answers; ready for training."""

        def note(device: Device) -> dict[str, Any]:
            if isinstance(body, Choice):
                chosen = device.feedback.add_preference(body.prompt, body.chosen, body.rejected)
                return {"preference": asdict(chosen)}
            turn = existing(lambda: device.conversations.turn(body.turn))
            prompt = device.conversations.question_of(turn)
            if isinstance(body, Better):
                noted = {"preference": asdict(device.feedback.edit(turn, prompt, body.better))}
            else:
                noted = {"rating": asdict(device.feedback.thumbs(turn, prompt, body.thumbs == "up", body.note))}
            # an adapter whose answers are liked less than those before it goes; the next answer is without it
            taken_back = watch(device.vault, device.conversations, device.feedback)
            return noted | ({"rolled_back": asdict(taken_back)} if taken_back else {})

        return await session.run(note)

    @router.get("/feedback", tags=["feedback"], response_model=FeedbackOut)
    async def all_feedback() -> Any:
        """Everything the owner said about answers."""

        def read(device: Device) -> dict[str, Any]:
            return {
                "preferences": [asdict(one) for one in device.feedback.preferences()],
                "ratings": [asdict(one) for one in device.feedback.ratings()],
            }

        return await session.run(read)
