"""The gateway's eye on the routes, and how long it tries: what must go on although something cannot be read or is slow."""

import asyncio
import time

import pytest

from deployments.serving import gateway_config
from tasks.domain.errors import InputError
from tasks.endpoints.board import Board
from tasks.endpoints.keys import OWN, Key
from tasks.endpoints.limits import Turnstile
from tasks.endpoints.lost import Lost, Tries
from tasks.endpoints.routes import Routes, write_routes


def test_routes_that_cannot_be_read_once_are_read_by_a_later_look(tmp_path):
    path = tmp_path / "routes.json"
    write_routes(path, Routes(serial=1))

    async def look():
        board = Board(path)
        assert board.refresh()
        path.unlink()
        path.mkdir()  # as with no descriptor left: the file is there, and reading it fails
        watching = asyncio.create_task(board.watch())
        await asyncio.sleep(0.2)
        assert not watching.done()
        path.rmdir()
        write_routes(path, Routes(serial=2))
        async with asyncio.timeout(10):
            while board.routes.serial != 2:
                await asyncio.sleep(0.02)
        watching.cancel()

    asyncio.run(look())


def test_a_request_is_tried_again_for_as_long_from_its_first_loss_on():
    tries = Tries(0.05, retry=True)
    time.sleep(0.1)  # it was worked on for longer than a request is held
    assert tries.seconds_left < 0
    tries.note("a.sock", Lost("abort", "it drains"))
    first = tries.seconds_left
    assert first > 0
    time.sleep(0.02)
    tries.note("a.sock", Lost("abort", "it drains"))
    assert tries.seconds_left < first
    assert Tries(0.05, retry=False).seconds_left <= 0


def test_the_installations_own_requests_come_in_when_all_places_are_taken():
    turnstile = Turnstile(1)
    anna, own = Key("anna", b"", 0), Key(OWN, b"", 0)
    assert turnstile.enter(anna) == ""
    assert "the limit of this gateway is 1" in turnstile.enter(anna)
    assert turnstile.enter(own) == ""


def test_settings_that_cannot_be_used_are_a_refusal_and_not_the_end(tmp_path, monkeypatch):
    monkeypatch.setenv("EMPELT_HOME", str(tmp_path))
    monkeypatch.setenv("EMPELT_GATEWAY_KEYS_FILE", str(tmp_path / "gone"))
    with pytest.raises(InputError, match="gone should hold a secret and cannot be read"):
        gateway_config()
