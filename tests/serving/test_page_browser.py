"""The page in a real browser, headless: what a person does, and sees."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import waiting

pytest.importorskip("starlette", reason="the page is served with the extra [serve]")
pytest.importorskip("pybullet", reason="the tabletop needs the extra [tabletop]")
playwright = pytest.importorskip("playwright.sync_api", reason="a browser is driven with the extra [browser]")

HERE = pathlib.Path(__file__).resolve().parent
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FOUND = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(FOUND is None, reason=f"no browser: none of {', '.join(NAMES)} on the path")
PATIENCE = 1000 * waiting.PATIENCE  # milliseconds


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses root otherwise
        yield driver.chromium.launch(executable_path=FOUND, args=options)


@pytest.fixture(scope="module")
def serve():
    """(arguments of page_server.py) -> the address of a server in another process, one for the same arguments."""
    started = {}
    places = (HERE.parent.parent, HERE.parent, HERE, os.environ.get("PYTHONPATH", ""))
    paths = os.pathsep.join(map(str, places))

    def start(*arguments):
        if arguments not in started:
            command = [sys.executable, str(HERE / "page_server.py"), *arguments]
            environment = os.environ | {"PYTHONPATH": paths}
            server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
            started[arguments] = server, server.stdout.readline().strip()
        return started[arguments][1]

    yield start
    for server, address in started.values():
        server.terminate()
        server.wait(waiting.PATIENCE)
        server.stdout.close()
        assert address.startswith("http"), "a server did not start"


@pytest.fixture
def visit(browser):
    """(address, **options of a context) -> the page, whose every complaint fails the test."""
    complaints, contexts = [], []

    def go(address, **options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(f"{request.url} failed"))
        page.goto(address)
        return page

    yield go
    for context in contexts:
        context.close()
    assert not complaints


def shows(page, selector, text):
    playwright.expect(page.locator(selector)).to_contain_text(text, timeout=PATIENCE)


def ready(page):
    """The first picture is there."""
    page.locator("#camera[src^='data:image/png']").wait_for()
    return page.locator("#camera").get_attribute("src")


def is_another(page, selector, before):
    """Waits until a picture is not what it was."""
    playwright.expect(page.locator(selector)).not_to_have_attribute("src", before, timeout=PATIENCE)


def has_text(page, selector, text):
    playwright.expect(page.locator(selector)).to_have_text(text, timeout=PATIENCE)


def is_wide(page, selector, pixels):
    """Waits until a canvas holds a picture of that width."""
    playwright.expect(page.locator(selector)).to_have_js_property("width", pixels, timeout=PATIENCE)


def painted(page, selector):
    return page.locator(selector).evaluate("canvas => canvas.toDataURL()")


def test_a_person_types_an_instruction_and_watches(serve, visit):
    page = visit(serve())
    first = ready(page)
    shows(page, "#connection", "connected")
    shows(page, "#facts", "fake policy in tabletop, 10 Hz, checkpoint 01234567")
    own = page.locator("#use-own").inner_text()
    shows(page, "#doing", own)

    page.get_by_label("Instruction", exact=True).fill("move the arm up")
    page.keyboard.press("Enter")
    shows(page, "#doing", "move the arm up")
    page.get_by_role("button", name="Start").click()
    is_another(page, "#camera", first)
    shows(page, "#state", "running")

    playwright.expect(page.locator("#latents li")).to_have_count(2)
    assert page.locator("#latents li").first.inner_text() == "2"  # "up"
    playwright.expect(page.locator("#plot .axis b")).to_have_text(["x", "y"])
    assert page.locator("#plot circle.planned").count() == 2 * 4
    assert page.locator("#plot circle.done").count() >= 2
    shows(page, "#plot .axis:nth-child(2)", "m")
    for latency in ("#infer", "#imagine", "#trip"):
        shows(page, latency, "p50")
    assert page.locator("#spark rect").count() >= 1
    is_wide(page, "#seen", 64)
    assert painted(page, "#seen") != painted(page, "#painted")

    page.get_by_role("button", name="Pause").click()
    shows(page, "#state", "paused")
    page.get_by_label("to seed").fill("7")
    page.get_by_role("button", name="Reset").click()
    has_text(page, "#step", "0")
    shows(page, "#state", "ready")
    assert page.locator("#plot circle").count() == 0 and page.locator("#latents li").count() == 0
    assert ready(page) != first and page.locator("#use-own").inner_text() != own

    page.locator("#use-own").click()
    shows(page, "#doing", page.locator("#use-own").inner_text())
    page.get_by_role("button", name="Next seed").click()
    playwright.expect(page.locator("#seed")).to_have_value("8", timeout=PATIENCE)


def test_single_steps_and_the_difference(serve, visit):
    page = visit(serve())
    ready(page)
    page.get_by_label("Instruction", exact=True).fill("move left")
    page.get_by_role("button", name="Say it").click()
    page.get_by_role("button", name="Single step").click()
    has_text(page, "#step", "1")
    is_wide(page, "#seen", 64)
    assert painted(page, "#seen") == painted(page, "#painted")  # code 0 moves the picture by nothing
    page.get_by_label("show the difference").check()
    assert page.locator("#painted").evaluate(BRIGHTEST) == 0
    assert page.locator("#seen").evaluate(BRIGHTEST) > 200


def test_errors_are_said_in_words_and_the_page_goes_on(serve, visit):
    page = visit(serve())
    ready(page)
    box = page.get_by_label("Instruction", exact=True)
    box.fill("long " * 100)
    page.keyboard.press("Enter")
    shows(page, "[role=alert]", "400 characters")
    box.fill("so " * 40)
    page.keyboard.press("Enter")
    playwright.expect(page.get_by_role("alert")).to_be_hidden()
    page.get_by_role("button", name="Start").click()
    shows(page, "[role=alert]", "shorten the instruction")
    shows(page, "#state", "ready")
    page.get_by_role("button", name="Dismiss").click()
    box.fill("move right")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Start").click()
    shows(page, "#state", "running")
    playwright.expect(page.get_by_role("alert")).to_be_hidden()


def test_a_slow_policy_is_waited_for(serve, visit):
    page = visit(serve())
    ready(page)
    page.get_by_label("Instruction", exact=True).fill("move up slowly")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Start").click()
    shows(page, "#state", "waiting for the policy")
    shows(page, "#state", "running")


def test_without_a_laq_the_page_says_why_nothing_is_imagined(serve, visit):
    page = visit(serve("imagine=null"))
    ready(page)
    shows(page, "#no-imagination", "No LAQ was given to the server")
    playwright.expect(page.locator("#imagination")).to_be_hidden()
    page.get_by_role("button", name="Start").click()
    shows(page, "#state", "running")
    playwright.expect(page.locator("#latents li")).to_have_count(2)


def test_another_environment_is_shown_as_well(serve, visit):
    page = visit(serve('environment="fake_arm"'))
    page.locator("#camera[src^='data:image/jpeg']").wait_for()
    page.get_by_label("Instruction", exact=True).fill("wave")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Start").click()
    names = ["dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"]
    playwright.expect(page.locator("#plot .axis b")).to_have_text(names)
    page.locator("#plot .axis:nth-child(7) circle.planned").first.wait_for()
    assert page.locator("#plot circle.planned").count() == 7 * 8
    shows(page, "#declared", "delta of the end effector")
    is_wide(page, "#painted", 320)


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_it_fits_a_phone_and_can_be_used_by_keys_alone(serve, visit, colours):
    page = visit(serve(), viewport={"width": 380, "height": 760}, color_scheme=colours)
    ready(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    page.locator("#instruction").focus()
    page.keyboard.type("move down")
    page.keyboard.press("Enter")
    names = []
    for _ in range(12):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        if names[-1] == "start":
            page.keyboard.press("Space")
    assert {"Say it", "start", "one", "speed", "reset", "seed", "next", "go-on", "difference"} <= set(names)
    shows(page, "#state", "running")
    assert page.evaluate(UNNAMED) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 380


BRIGHTEST = """canvas => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return Math.max(...data.filter((_, i) => i % 4 < 3));
}"""

UNNAMED = """() => [...document.querySelectorAll("button, input, select, img, canvas, svg")].filter((one) => {
  const labelled = one.labels?.length || one.getAttribute("aria-label") || one.alt;
  return !labelled && !(one.tagName === "BUTTON" && one.textContent.trim());
}).map((one) => one.outerHTML)"""


@pytest.fixture
def served(tiny_run, tmp_path):
    """The address of `serve` with a trained policy, its LAQ and a token."""
    token, root = tmp_path / "token", HERE.parent.parent
    token.write_text("sesame")
    options = {"policy": tiny_run("finetune"), "page.laq": tiny_run("train_laq"), "token_file": token, "port": 0}
    flags = [f"--config.{name}={value}" for name, value in options.items()]
    command = [sys.executable, "experiments/serve.py", "--config=experiments/configs/serve.py:tiny", *flags]
    paths = os.pathsep.join([str(root), str(root / "client"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root, env=environment)
    found = next((line for line in server.stdout if "watch it" in line), "")
    yield found.split()[-1] if found else pytest.fail("the server did not start")
    server.terminate()
    assert server.wait(waiting.PATIENCE) == 0
    server.stdout.close()


@pytest.mark.slow
def test_the_program_serves_the_page_of_a_trained_policy_to_who_has_the_token(served, visit):
    page = visit(served, http_credentials={"username": "anyone", "password": "sesame"})
    ready(page)
    shows(page, "#facts", "latents policy in tabletop")
    page.get_by_label("Instruction", exact=True).fill("push the red block left")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Start").click()
    playwright.expect(page.locator("#latents li")).to_have_count(1, timeout=PATIENCE)  # it warms up first
    is_wide(page, "#painted", 64)
    shows(page, "#painted-name", "imagined 0.4 s later")
    shows(page, "#infer", "p50")
