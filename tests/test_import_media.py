"""The media of a room's old history, out of an old server's media store into a running server."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image

from tests.harness.brake import brake
from tests.harness.client import Client, MatrixError
from tests.harness.federation import running
from tests.harness.server import Server
from tests.harness.waiting import wait_for
from tests.oldworld import MODULE, OldRoom, begin, come_late, finished, job_path, room_path, tamper
from tests.openapi import Contract, Judge

STORE_MEDIUM = "store_cached_remote_media"
NOTE_MEDIUM = "rejection_repair_note_media"


def picture(seed: int) -> bytes:
    noise = random.Random(seed).randbytes(200 * 150 * 3)
    file = io.BytesIO()
    Image.frombytes("RGB", (200, 150), noise).save(file, "PNG")
    return file.getvalue()


def download(client: Client, uri: str, kind: str = "download") -> Any:
    server, media_id = uri.removeprefix("mxc://").split("/")
    return client.response(
        "GET",
        f"/_matrix/client/v1/media/{kind}/{quote(server)}/{media_id}",
        params={"width": 96, "height": 96, "method": "crop", "timeout_ms": 1000}
        if kind == "thumbnail"
        else {"timeout_ms": 1000},
    )


@dataclass
class Gallery:
    """A room with pictures, its servers gone but for B; what came of each by its name."""

    world: OldRoom
    control: Path
    contents: dict[str, bytes] = field(default_factory=dict)
    uris: dict[str, str] = field(default_factory=dict)
    taken_back: dict[str, str] = field(default_factory=dict)
    """URIs of pictures that no event names as it stands here."""

    def import_media(self, **options: Any) -> dict[str, Any]:
        return self.world.import_room(media=True, **options)

    def skipped(self, job: dict[str, Any]) -> dict[str, str]:
        judge = Judge(Contract(tags={"Import"}), self.world.bob)
        assert judge.ok("GET", "/v1" + job_path(job["import_id"])) == job
        answer = judge.ok("GET", "/v1" + job_path(job["import_id"]) + "/skipped_media")
        assert answer["total"] == len(answer["skipped_media"])
        names = {uri: name for name, uri in self.uris.items()}
        return {names[row["mxc"]]: row["reason"] for row in answer["skipped_media"]}


SPOILED = {
    "truncated": "other_size",
    "no picture": "other_type",
    "changed": "other_hash",
    "gone": "missing_file",
    "link": "outside",
    "quarantined": "quarantined",
    "unknown": "not_in_source",
}
TAKEN_BACK = ("redacted", "redacted by its sender", "made up by the database")
ARRIVING = ("picture", "text", "in HTML", "of a third server")


def spoil(a: Server, alice: Client, uris: dict[str, str]) -> None:
    store = a.folder / "media_store"

    def file(name: str) -> Path:
        media_id = uris[name].rpartition("/")[2]
        return store / "local_content" / media_id[:2] / media_id[2:4] / media_id[4:]

    size = file("truncated").stat().st_size
    os.truncate(file("truncated"), size // 2)
    content = bytearray(file("changed").read_bytes())
    content[-20] ^= 1
    file("changed").write_bytes(content)
    file("gone").unlink()
    secret = a.folder / "secret.png"
    file("link").replace(secret)
    file("link").symlink_to(secret)
    server, media_id = uris["quarantined"].removeprefix("mxc://").split("/")
    alice.admin("POST", f"/v1/media/quarantine/{server}/{media_id}")


def take_back(made: Gallery) -> str:
    """Shows pictures and redacts them; gives a message that is to name one in the database."""
    world = made.world
    for number, name in enumerate(TAKEN_BACK):
        user = world.anna if name == "redacted by its sender" else world.alice
        uri = user.upload(picture(100 + number), "image/png", "of old.png")
        made.taken_back[name] = uri
        if name != "made up by the database":
            image = {"msgtype": "m.image", "body": name, "url": uri}
            user.redact(world.room_id, user.send_event(world.room_id, "m.room.message", image))
    return world.alice.send_message(world.room_id, "Nothing to see")


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gallery]:
    folder = tmp_path_factory.mktemp("gallery")
    a, c = Server(folder / "a", modules=[]), Server(folder / "c", modules=[])
    control = folder / "brake.json"
    database = a.database.synapse_config()
    old = {"database": database, "media_store_path": str(a.folder / "media_store")}
    named = {"old": old, "bare": {"database": database}}
    b = Server(
        folder / "b",
        modules=[
            {"module": MODULE, "config": {"sources": named}},
            {"module": "tests.harness.brake.Brake", "config": {"control": str(control)}},
        ],
    )
    with running(a, b, c):
        world = begin(a, b, "11")
        made = Gallery(world, control)
        carol = c.register("carol")
        names = [*ARRIVING, *(n for n in SPOILED if n != "unknown")]
        for seed, name in enumerate(names):
            content, kind = picture(seed), "image/png"
            if name == "text":
                content, kind = b"Old words", "text/plain; charset=utf-8"
            elif name == "no picture":
                content = b"<html><script>alert(1)</script>"
            user = carol if name == "of a third server" else world.alice
            made.contents[name] = content
            made.uris[name] = user.upload(content, kind, "of old.png")
        assert download(world.alice, made.uris["of a third server"]).ok
        made.uris["unknown"] = f"mxc://{a.name}/NothingEverHadThatIdHere"
        for name, uri in made.uris.items():
            if name == "in HTML":
                html = {"format": "org.matrix.custom.html", "formatted_body": f'<img src="{uri}">'}
                world.alice.send_message(world.room_id, name, **html)
            elif name == "of a third server":
                world.alice.send_state(world.room_id, "m.room.avatar", {"url": uri})
            else:
                image = {"msgtype": "m.image", "body": name, "url": uri}
                world.alice.send_event(world.room_id, "m.room.message", image)
        # Twice, and never to be had: no URI, and one that would climb out of any folder.
        world.alice.send_message(world.room_id, made.uris["picture"])
        once_more = {"msgtype": "m.image", "body": "again", "url": made.uris["picture"]}
        again = world.alice.send_event(world.room_id, "m.room.message", once_more)
        world.alice.redact(world.room_id, again)
        innocent = take_back(made)
        world.alice.send_message(world.room_id, f"mxc://{a.name}/../../../secret mxc:// mxc://x")
        come_late(world)
        spoil(a, world.alice, made.uris)
        uri = made.taken_back["made up by the database"]
        tamper(world, innocent, lambda text: text.replace("Nothing to see", uri))
        a.stop()
        c.stop()
        yield made


def rows(server: Server, table: str, *columns: str) -> set[tuple[Any, ...]]:
    return set(server.database.query(f"SELECT {', '.join(columns)} FROM {table}"))


def files_in(folder: Path) -> int:
    # Synapse leaves an empty one behind where it tries to fetch a medium in vain.
    return sum(f.is_file() and f.stat().st_size > 0 for f in folder.rglob("*"))


def test_media_are_refused_where_the_source_has_no_store(gallery: Gallery) -> None:
    bare = {"source": "bare", "media": True}
    one = room_path(gallery.world.room_id, "import")
    for path, body in (
        (one, {**bare, "dry_run": True}),
        (one, {**bare, "dry_run": False}),
        ("/imports", {**bare, "room_ids": "all", "dry_run": True}),
        ("/imports", {**bare, "room_ids": [gallery.world.room_id], "dry_run": False}),
    ):
        with pytest.raises(MatrixError) as error:
            gallery.world.bob.repair_api("POST", path, body)
        assert (error.value.status, error.value.errcode) == (400, "M_INVALID_PARAM")
        assert "media_store_path" in (error.value.error or "")
    with pytest.raises(MatrixError) as error:
        gallery.world.dry_run(media="yes")
    assert error.value.status == 400


def test_the_dry_run_tells_which_media_would_arrive(gallery: Gallery) -> None:
    # A dry run does not read whole files, so it takes the changed one for good.
    arriving = [gallery.contents[n] for n in (*ARRIVING, "changed")]
    assert gallery.world.dry_run()["media"] == {
        "referenced": len(gallery.uris),
        "present": 0,
        "to_import": len(arriving),
        "bytes": sum(map(len, arriving)),
        "unavailable": len(SPOILED) - 1,
    }


def wait_dead(server: Server) -> None:
    wait_for(lambda: not server.running, timeout=60, what="B to be killed")
    server.kill()


def test_pictures_outlive_the_old_server(gallery: Gallery) -> None:
    world, b = gallery.world, gallery.world.b
    # As of media that are older than the column.
    old = gallery.uris["picture"].rpartition("/")[2]
    for table in ("local_media_repository", "remote_media_cache"):
        world.a.database.execute(f"UPDATE {table} SET sha256 = NULL WHERE media_id = ?", old)
    without = world.import_room()
    assert (without["status"], without["media"]["copied"]) == ("complete", 0)
    assert not rows(b, "remote_media_cache", "media_id")
    assert not download(world.bob, gallery.uris["picture"]).ok, "nobody is there to give it"

    # Killed when the first one is stored, just before the next would be, and when it is noted.
    brake(gallery.control, {"transaction": STORE_MEDIUM, "nth": 1, "kill": "after"})
    job_id = world.start_import(media=True)
    wait_dead(b)
    for transaction, nth, moment in (
        (STORE_MEDIUM, 1, "before"),
        (NOTE_MEDIUM, 2, "before"),
        (NOTE_MEDIUM, 3, "after"),
    ):
        brake(gallery.control, {"transaction": transaction, "nth": nth, "kill": moment})
        b.launch()
        wait_dead(b)
    b.start()
    job = finished(world.bob, job_id)

    assert job["status"] == "complete", job
    assert job["media"]["copied"] == len(ARRIVING), "each is counted once"
    assert job["media"]["bytes"] == sum(len(gallery.contents[name]) for name in ARRIVING)
    assert gallery.skipped(job) == SPOILED
    assert sorted(job["media"]["skipped"].items()) == sorted((r, 1) for r in SPOILED.values())
    for name in ARRIVING:
        answer = download(world.bob, gallery.uris[name])
        assert answer.ok, (name, answer.text)
        assert answer.content == gallery.contents[name], name
        assert "of%20old.png" in answer.headers["Content-Disposition"], name
        kind = "text/plain; charset=utf-8" if name == "text" else "image/png"
        assert answer.headers["Content-Type"].lower() == kind.lower(), name
        if name != "text":
            assert download(world.bob, gallery.uris[name], "thumbnail").ok, name
    for name, uri in (gallery.uris | gallery.taken_back).items():
        assert name in ARRIVING or not download(world.bob, uri).ok, name
    compare_rows(gallery)
    assert b.errors_in_log() == []
    assert str(world.a.folder) not in b.log_text()

    again = gallery.import_media()
    assert (again["status"], again["media"]["copied"]) == ("complete", 0)
    assert world.dry_run()["media"]["present"] == len(ARRIVING)


def compare_rows(gallery: Gallery) -> None:
    a, b = gallery.world.a, gallery.world.b
    columns = (
        "media_id",
        "thumbnail_width",
        "thumbnail_height",
        "thumbnail_method",
        "thumbnail_type",
        "thumbnail_length",
    )
    ids = {gallery.uris[name].rpartition("/")[2] for name in ARRIVING}
    theirs = rows(a, "local_media_repository_thumbnails", *columns)
    theirs |= rows(a, "remote_media_cache_thumbnails", *columns)
    ours = rows(b, "remote_media_cache_thumbnails", *columns)
    assert ours == {row for row in theirs if row[0] in ids}
    assert rows(b, "remote_media_cache", "media_id", "sha256") == {
        (gallery.uris[name].rpartition("/")[2], hashlib.sha256(gallery.contents[name]).hexdigest())
        for name in ARRIVING
    }
    store = b.folder / "media_store"
    assert files_in(store / "remote_content") == len(ids), "a kill leaves no file behind"
    assert files_in(store / "remote_thumbnail") == len(ours)
    served = json.dumps(gallery.world.bob.repair_api("GET", "/imports"))
    assert str(a.folder) not in served
