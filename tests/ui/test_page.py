"""The built page inside Gradio: a visitor's session, what an API client is told, and how app.py starts."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from gradio.state_holder import StateHolder

import app
from lssgen.families.table import ModelError
from lssgen.ui.layout import build_ui


def function(page, name):
    """The page's function of that name."""
    return next(fn for fn in page.fns.values() if fn.name == name)


def call(page, name, state, values=()):
    """Call a function as Gradio's queue does, to its end. In a thread: the browser's tests have a loop in this one."""

    async def to_its_end():
        fn, going, iterator = function(page, name), True, None
        while going:
            answer = await page.process_api(fn, [None, *values], state=state, iterator=iterator, in_event_listener=True)
            going, iterator = answer["is_generating"], answer["iterator"]

    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, to_its_end()).result()


@pytest.mark.parametrize("first", ["claim", "replan", "run"])
def test_gradio_deletes_the_pictures_of_a_visitor_who_left(studio, config, values, first):
    """The session was only ever an input, and Gradio deletes only what was an output: pictures stayed for good."""
    page = build_ui(studio.models, config)
    holder = StateHolder()
    holder.set_blocks(page)
    state = holder["visitor"]
    inputs = () if first == "claim" else values.values()
    if first != "run":
        call(page, first, state, inputs)
    key = next(block._id for block in page.blocks.values() if block.stateful)
    session = state[key]
    call(page, "run", state, values.values())
    assert state[key] is session
    folder = session.shelf.folder
    assert len(list(folder.glob("*.png"))) >= 2
    holder.delete_all_expired_state()
    assert folder.exists()
    state.is_closed = True  # what Gradio does when the heartbeat ends
    holder.delete_all_expired_state()
    assert folder.exists()
    state.STATE_TTL_WHEN_CLOSED = 0
    holder.delete_all_expired_state()
    assert not folder.exists()
    assert session.stop.is_set()


def test_each_look_at_the_plan_renews_the_stay(studio, config, values):
    page = build_ui(studio.models, config)
    holder = StateHolder()
    holder.set_blocks(page)
    state = holder["visitor"]
    call(page, "replan", state, values.values())
    ((_, first),) = state._state_ttl.values()
    call(page, "replan", state, values.values())
    ((stay, second),) = state._state_ttl.values()
    assert second > first
    assert 3600 <= stay <= 86_400


def raw_call(address, data):
    """What the server answers to data that no client would send."""
    posted = httpx.post(f"{address}gradio_api/call/compare", json={"data": data}, timeout=30)
    if posted.status_code != 200:
        return f"error {posted.text}"
    return httpx.get(f"{address}gradio_api/call/compare/{posted.json()['event_id']}", timeout=30).text


def test_an_api_client_is_told_in_words(studio, config, values):
    from gradio_client import Client

    page = build_ui(studio.models, config).queue()
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, show_error=True, ssr_mode=False)
    try:
        client = Client(address, verbose=False)
        for wrong, message in (({"width": 100_000}, "width is 100000"), ({"prompt": ["x"]}, "must be text")):
            answer = client.predict(*{**values, **wrong}.values(), api_name="/compare")
            assert message in str(answer)
            assert "Traceback" not in str(answer)
        assert "Finished" in str(client.predict(*values.values(), api_name="/compare"))
        for data in (["too few"], "no list", [{"path": "/etc/passwd"}] * len(values)):
            said = raw_call(address, data)
            assert "error" in said or "must be" in said or "no text" in said
            assert "Traceback" not in said
            assert 'File "' not in said
    finally:
        page.close()


def test_a_models_name_and_licence_are_escaped(studio, config, monkeypatch):
    engine = studio.models.get(config.model)
    evil = replace(engine.settings, name="<script>x</script>", licence="<b>mine")
    monkeypatch.setattr(engine, "settings", evil)
    html = " ".join(str(b.value) for b in build_ui(studio.models, config).blocks.values() if hasattr(b, "value"))
    assert "&lt;script&gt;x" in html
    assert "<script>x" not in html
    assert "<b>mine" not in html


@pytest.mark.parametrize("error", [ModelError("odd"), KeyError("in_channels"), RecursionError("deep")])
def test_damaged_assets_leave_a_page_that_says_so(studio, config, session, values, monkeypatch, error):
    def damaged(name):
        raise error

    monkeypatch.setattr(studio.models, "get", damaged)
    page = build_ui(studio.models, config)
    assert "not found" in " ".join(str(b.value) for b in page.blocks.values() if hasattr(b, "value"))
    assert "ls-bad" in studio.replan(session, *values.values())["plan"]


@pytest.mark.parametrize(("host", "private"), [("127.0.0.1", True), ("::1", True), ("0.0.0.0", False), ("box", False)])
def test_paths_may_be_named_on_this_machine_only(monkeypatch, host, private):
    """With --host 0.0.0.0 any visitor could name a path of the server."""
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert app.is_private(host) is private
    monkeypatch.setenv("SPACE_ID", "someone/space")
    assert not app.is_private(host)


@pytest.mark.parametrize("wrong", [["--port", "taken"], ["--port", "70000"], ["--host", "10.255.255.1"]])
def test_an_address_that_cannot_be_used_is_one_line(tiny_folder: Path, capsys, wrong):
    """A taken port was a traceback of gradio's."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wrong = [str(taken.getsockname()[1]) if word == "taken" else word for word in wrong]
        assert app.main([*wrong, "--model", str(tiny_folder), "--no-warm-up"]) == 1
    said = capsys.readouterr().err.strip()
    assert wrong[1] in said
    assert "--port" in said
    assert "\n" not in said


def test_the_host_of_the_environment_counts(tiny_folder: Path, monkeypatch):
    asked = []
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    monkeypatch.setattr("lssgen.ui.layout.build_ui", lambda models, config: asked.append(config) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        app.main(["--model", str(tiny_folder)])
    assert not asked[0].allow_paths
