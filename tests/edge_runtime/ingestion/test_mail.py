"""Mail: what the sender wrote, decoded; no quotes, signatures, attachments or spam."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.ingestion.mail import is_maildir, read_eml, read_maildir, read_mbox, written_by_sender
from protocol.errors import PenchantError

REPLY = """From: =?utf-8?q?In=C3=AAs_Duarte?= <ines@example.org>
To: ana@example.org
Subject: Re: AW: =?iso-8859-1?q?caf=E9?=
Date: Fri, 14 Mar 2025 23:30:00 -0500
Message-ID: <2@example.org>
Content-Type: text/plain; charset="iso-8859-1"
Content-Transfer-Encoding: quoted-printable

At the caf=E9, then.

On Thu, 13 Mar 2025 at 10:00, Ana Lund <ana@example.org>
wrote:
> Shall we meet?
>> On Friday?

At noon.
--=20
Ines
Potter
"""
ATTACHED = """From: ana@example.org
Subject: Photos
Date: nonsense
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=b

--b
Content-Type: text/html; charset=utf-8

<p>Here they are.</p><blockquote>Send them</blockquote>
--b
Content-Type: text/plain; name=secret.txt
Content-Disposition: attachment; filename=secret.txt

the attachment
--b--
"""


def mail(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def test_a_reply_is_what_its_sender_wrote(tmp_path: Path) -> None:
    (section,) = read_eml(mail(tmp_path / "a.eml", REPLY))
    assert section.text == "At the café, then.\n\nAt noon."
    assert (section.speaker, section.cue) == ("Inês Duarte <ines@example.org>", "café")
    assert (section.said_at, section.source) == ("2025-03-14", "mail")


def test_html_only_mail_without_its_attachment_and_with_the_day_of_the_file(tmp_path: Path) -> None:
    (section,) = read_eml(mail(tmp_path / "a.eml", ATTACHED))
    assert section.text == "Here they are." and section.speaker == "ana@example.org"
    assert section.said_at > "2025"


def test_a_mailbox_without_spam_and_rubbish(tmp_path: Path) -> None:
    spam = "Subject: Win\nX-Gmail-Labels: Spam,Unread\n\nmoney\n"
    broken = (
        'From: "x" <<>\nDate: 99\nContent-Type: text/plain; charset=klingon\nContent-Transfer-Encoding: base64\n\n%%%\n'
    )
    empty = "Subject: nothing\n\n> all quoted\n"
    letters = [REPLY, spam, broken, empty, ATTACHED]
    box = mail(tmp_path / "all.mbox", "".join(f"From x Fri Mar 14 00:00:00 2025\n{letter}\n" for letter in letters))
    found = list(read_mbox(box))
    assert "money" not in str(found) and "all quoted" not in str(found)
    assert [section.cue for section in found if "caf" in section.text or "Here" in section.text] == ["café", "Photos"]
    assert len({section.part for section in found}) == len(found) and all(section.speaker for section in found)


def test_a_maildir_without_what_was_thrown_away(tmp_path: Path) -> None:
    folder = tmp_path / "mail"
    for name in ("cur", "new", "tmp"):
        (folder / name).mkdir(parents=True)
    assert is_maildir(folder) and not is_maildir(tmp_path)
    mail(folder / "cur" / "2.a:2,S", REPLY)
    mail(folder / "cur" / "3.a:2,ST", REPLY)
    mail(folder / "new" / "1.a", ATTACHED)
    assert [section.cue for section in read_maildir(folder)] == ["Photos", "café"]


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        ("Yes.\n\nOn 3 May 2025, Bea wrote:\n\n> no\n> no\n\nBut no.", "Yes.\n\nBut no."),
        ("Ja.\n\nAm 3. Mai 2025 schrieb Bea <b@x.de>:\n> nein", "Ja."),
        ("Yes.\n\n-----Original Message-----\nFrom: Bea\nold", "Yes."),
        ("Yes.\n\nFrom: Bea Moss <b@x.org>\nSent: Friday\nTo: me\n\nold text", "Yes."),
        ("Yes.\nSent from my iPhone", "Yes."),
        ("On Monday I wrote this:\nit stays? no mark", ""),
        ("I say: on Monday we fire.\n- clay\n- wax", "I say: on Monday we fire.\n- clay\n- wax"),
        ("See\n---------- Forwarded message ---------\nFrom: Ana\nHer words", "See"),
        (">only\n> quotes", ""),
    ],
)
def test_quotes_and_signatures_are_cut(body: str, kept: str) -> None:
    assert written_by_sender(body) == kept


def test_what_is_no_mail_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PenchantError, match="no header"):
        list(read_eml(mail(tmp_path / "a.eml", "just text\n")))
    with pytest.raises(PenchantError, match="From line"):
        list(read_mbox(mail(tmp_path / "a.mbox", "just text\n")))
