"""What sidecars hold, and how a caption joins what is there; XMP is read back by exiftool."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from captioner.data.sidecars import SIDECARS, Join, JsonSidecar, TextSidecar
from captioner.data.xmp import XmpSidecar
from captioner.errors import DataError, OptionError


@pytest.mark.parametrize(
    ("existing", "former", "found"),
    [
        ("skip", None, "a dog"),
        ("skip", "a cat", None),
        ("skip", "", None),
        ("overwrite", "a cat", "a dog"),
        ("overwrite", "a dog", None),
        ("append", "a cat", "a cat; a dog"),
        ("append", "", "a dog"),
        ("append", "a cat; a dog", None),  # a run that was stopped is repeated
        ("append", "a dog", None),
        ("prepend", "a cat", "a dog; a cat"),
        ("prepend", "a dog; a cat", None),
    ],
)
def test_a_caption_joins_what_is_there(existing: str, former: str | None, found: str | None) -> None:
    assert Join(existing=existing, separator="; ")(former, "a dog") == found


def test_an_unknown_way_to_join_is_refused() -> None:
    with pytest.raises(OptionError, match=r"replace.*skip, overwrite, append, prepend"):
        Join(existing="replace")


def test_text_keeps_its_first_lines_and_gets_one_line_end() -> None:
    append = Join(existing="append")
    assert TextSidecar().merged(None, "a\ndog", {}, append) == b"a dog\n"
    assert TextSidecar().merged(b"\xef\xbb\xbfone\r\ntwo\r\n", "a dog", {}, append) == b"one\r\ntwo, a dog\n"
    with pytest.raises(DataError, match="UTF-8"):
        TextSidecar().merged(b"caf\xe9", "a dog", {}, append)


def test_json_keeps_the_keys_of_others() -> None:
    former = b'{"caption": "a cat", "tags": [1]}'
    written = JsonSidecar().merged(former, "a dog", {"caption": "a dog", "score": 1}, Join(existing="append"))
    assert written is not None
    assert json.loads(written) == {"caption": "a cat, a dog", "tags": [1], "score": 1}
    for foreign in (b"[1]", b'{"title": "x"}', b"{"):
        with pytest.raises(DataError, match="no object with a caption"):
            JsonSidecar().merged(foreign, "a dog", {}, Join(existing="overwrite"))
        with pytest.raises(DataError, match="no object with a caption"):
            JsonSidecar().is_complete(foreign)  # nor does it count as done
    assert JsonSidecar().needs_content and JsonSidecar().is_complete(former)


OTHERS = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><!-- kept -->
 <r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <r:Description r:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4" xmp:Label="a&#10;b"
    xmlns:dc="http://purl.org/dc/elements/1.1/">
   <dc:subject><r:Bag><r:li>beach</r:li></r:Bag></dc:subject>
   <dc:description><r:Alt><r:li xml:lang="de">ein Hund</r:li></r:Alt></dc:description>
  </r:Description>
 </r:RDF>
</x:xmpmeta>
<?xpacket end="w"?>""".encode()


def test_xmp_keeps_what_others_wrote() -> None:
    form = XmpSidecar(alt_text=True)
    assert not form.is_complete(OTHERS)
    written = form.merged(OTHERS, "a dog & <cat>", {}, Join(existing="overwrite"))
    assert written is not None
    assert form.is_complete(written)
    for part in ("<!-- kept -->", 'xmp:Rating="4"', "a&#10;b", "ein Hund", "beach", 'xpacket end="w"', "\ufeff"):
        assert part in written.decode()
    assert form.merged(written, "a dog & <cat>", {}, Join(existing="append")) is None
    assert form.merged(written, "another", {}, Join()) is None


def test_xmp_adds_only_the_property_that_is_missing() -> None:
    described = XmpSidecar().merged(None, "mine", {}, Join())
    assert described is not None
    written = XmpSidecar(alt_text=True).merged(described, "a dog", {}, Join())
    assert written is not None
    assert written.count(b"mine") == written.count(b"a dog") == 1


def test_a_blank_description_is_none() -> None:
    blank = XmpSidecar().merged(None, " ", {}, Join())
    assert blank is not None and not XmpSidecar().is_complete(blank)
    written = XmpSidecar().merged(blank, "a dog", {}, Join())
    assert written is not None and written.count(b"a dog") == 1 and XmpSidecar().is_complete(written)


@pytest.mark.parametrize(
    "content", [b"", b"<a/>", b"<x", b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "é".encode("latin-1")]
)
def test_what_is_no_xmp_stays(content: bytes) -> None:
    with pytest.raises(DataError, match="stays as it is"):
        XmpSidecar().merged(content, "a dog", {}, Join(existing="overwrite"))


def test_a_description_in_an_attribute_is_found() -> None:
    short = OTHERS.replace(b'xmp:Rating="4"', b'dc:description="ein Hund"').replace(
        b'<dc:description><r:Alt><r:li xml:lang="de">ein Hund</r:li></r:Alt></dc:description>', b""
    )
    assert XmpSidecar().is_complete(short)
    written = XmpSidecar().merged(short, "a dog", {}, Join(existing="append"))
    assert written is not None
    assert written.count(b"ein Hund, a dog") == written.count(b"ein Hund") == 1


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="needs exiftool (libimage-exiftool-perl)")
@pytest.mark.parametrize("former", [None, OTHERS], ids=["new", "of others"])
def test_exiftool_reads_what_was_written(tmp_path: Path, former: bytes | None) -> None:
    written = XmpSidecar(alt_text=True).merged(former, "a dög <&> 'cat'", {}, Join())
    assert written is not None
    (tmp_path / "a.xmp").write_bytes(written)
    command = ["exiftool", "-json", "-XMP:all", "-validate", "-warning", str(tmp_path / "a.xmp")]
    (found,) = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert found["AltTextAccessibility"] == "a dög <&> 'cat'"
    assert "Warning" not in found
    if former is None:
        assert found["Description"] == "a dög <&> 'cat'"
    else:
        assert (found["Rating"], found["Subject"]) == (4, "beach")
        assert "ein Hund" in found.values()


def test_every_form_reads_what_it_wrote(tmp_path: Path) -> None:
    for ending in (".txt", ".caption", ".json", ".xmp"):
        form = SIDECARS[ending]()
        content = form.merged(None, "a dog", {"caption": "a dog"}, Join())
        assert content is not None
        path = tmp_path / f"a{ending}"
        path.write_bytes(content)
        assert form.captions(path) == ["a dog"]


@pytest.mark.parametrize("existing", ["overwrite", "append"])
def test_captions_that_would_hide_the_new_one_stay(existing: str) -> None:
    with pytest.raises(DataError, match="'captions' beside 'caption'"):
        SIDECARS[".json"]().merged(b'{"caption": "x", "captions": ["p", "q"]}', "new", {}, Join(existing=existing))
