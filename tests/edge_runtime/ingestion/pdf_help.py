"""PDF files written by hand."""

from __future__ import annotations

import zlib
from collections.abc import Sequence


def pdf_bytes(pages: Sequence[Sequence[str]], *, info: str = "", compress: bool = False) -> bytes:
    """A PDF whose pages show these lines; `info` is the inside of its information dictionary."""
    contents = []
    for lines in pages:
        shown = " ".join(f"({line}) Tj T*" for line in lines)
        contents.append(f"BT /F1 12 Tf 14 TL 72 720 Td {shown} ET".encode("latin-1"))
    return pdf_with_streams([zlib.compress(text) for text in contents] if compress else contents, info, compress)


def pdf_with_streams(streams: Sequence[bytes], info: str = "", compressed: bool = False) -> bytes:
    """A PDF with one page per content stream."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(streams)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(streams)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for number, stream in enumerate(streams):
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * number} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>".encode()
        )
        packed = " /Filter /FlateDecode" if compressed else ""
        objects.append(f"<< /Length {len(stream)}{packed} >>\nstream\n".encode() + stream + b"\nendstream")
    objects.append(f"<< {info} >>".encode("latin-1"))
    data, offsets = bytearray(b"%PDF-1.4\n"), []
    for number, body in enumerate(objects, 1):
        offsets.append(len(data))
        data += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    start = len(data)
    data += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    data += b"".join(f"{offset:010} 00000 n \n".encode() for offset in offsets)
    data += f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R /Info {len(objects)} 0 R >>\n".encode()
    return bytes(data + f"startxref\n{start}\n%%EOF\n".encode())
