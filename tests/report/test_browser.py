"""The page in headless Chromium with the network off: hover, zoom, choice, keyboard, files, print, accessibility."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

from widestep.report.build import build_report
from widestep.study import study as studies

_FIGURE = '\n[[figures]]\nnumber = 2\nkind = "curves"\narm = "batch"\ntitle = "Curves"\n'
_HOSTILE = "</script><img src=x onerror=alert(1)>\u2028<b>"


@pytest.fixture(scope="module")
def report(tmp_path_factory, small_text, fakes):
    text = small_text.replace('"By epoch"', json.dumps(_HOSTILE)).replace('"Three batches"', json.dumps(_HOSTILE))
    study = studies.changed(studies.parse(text), seeds=4)
    directory = fakes.study(
        tmp_path_factory.mktemp("browser") / "s", study, lambda cell, seed, rng: fakes.planned(780 + int(rng.integers(40)))
    )
    build_report(directory)
    return directory / "report"


@pytest.fixture(scope="module")
def browser():
    """One Chromium for all tests; skips where there is none."""
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    with driver.sync_playwright() as played:
        started = played.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def visit(browser, report):
    """Open the page, the network off; every request, console message and error of the page is an error of the test."""
    opened, said = [], []

    def visit(path=None, **options):
        context = browser.new_context(offline=True, viewport={"width": 1280, "height": 900}, **options)
        opened.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if not _is_own(request.url) else None)
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.goto((path or report / "index.html").as_uri())
        return page

    def _is_own(url):
        return url.startswith(("data:", "blob:")) or url.endswith("/report/index.html") or "#" in url

    yield visit
    for context in opened:
        context.close()
    assert said == []


def plot_of(page, name="figure-2"):
    plot = page.locator(f"#{name} .plot")
    plot.scroll_into_view_if_needed()
    return plot, plot.locator(".u-over").bounding_box()


def table_of(report, name="figure-2"):
    return list(csv.DictReader(io.StringIO((report / "figures" / f"{name}.csv").read_text())))


def values(page, name="figure-2"):
    return page.locator(f"#{name} .choices .value").all_text_contents()


def test_values_under_the_pointer_are_those_of_the_file(visit, report):
    page = visit()
    plot, box = plot_of(page)
    rows = table_of(report)
    epochs = sorted({float(row["epoch"]) for row in rows})
    last = [row for row in rows if float(row["epoch"]) == epochs[-1]]
    assert [float(text.split()[0]) for text in values(page)] == pytest.approx(
        [float(row["accuracy_percent"]) for row in last], rel=1e-3
    )
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] / 2)
    shown = float(plot.get_attribute("aria-valuenow"))
    assert shown == min(epochs, key=lambda epoch: abs(epoch - (epochs[0] + epochs[-1]) / 2))
    there = [row for row in rows if float(row["epoch"]) == shown]
    for text, row in zip(values(page), there, strict=True):
        mean, low, high = (float(part.strip("[],")) for part in text.split())
        assert (mean, low, high) == pytest.approx(
            [float(row[name]) for name in ("accuracy_percent", "low", "high")], rel=1e-3
        )
    assert page.locator("#figure-2 .tip").is_visible()
    assert page.locator("#figure-2 .tip").text_content().startswith(f"epoch {shown:g}")


def scale(page, which="x", number=0):
    return page.evaluate(f"(({{min, max}}) => [min, max])(charts[{number}].plot.scales.{which})")


def test_zoom_by_dragging_buttons_and_back(visit):
    page = visit()
    _, box = plot_of(page)
    whole = [scale(page), scale(page, "y")]
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] * 0.8, steps=4)
    page.mouse.up()
    for before, (low, high) in zip(whole, [scale(page), scale(page, "y")], strict=True):
        assert high - low < 0.7 * (before[1] - before[0])
    page.mouse.dblclick(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert [scale(page), scale(page, "y")] == whole
    figure = page.locator("#figure-2")
    figure.get_by_role("button", name="Last third").click()
    low, high = scale(page)
    assert low > whole[0][0] + 0.6 * (whole[0][1] - whole[0][0])
    assert high == whole[0][1]
    figure.get_by_role("button", name="Reset").click()
    assert [scale(page), scale(page, "y")] == whole


def test_settings_arms_and_seeds_are_chosen(visit):
    page = visit()
    first = page.locator("#figure-2 .choices input").first
    first.uncheck()
    assert page.evaluate("charts[0].plot.series.map((one) => one.show)") == [True, False, True, True]
    assert values(page)[0] == ""
    page.locator("#figure-2").get_by_role("button", name="Single seeds").click()
    assert page.evaluate("charts[0].single")
    page.locator("#figure-2").get_by_role("button", name="Reset").click()
    assert first.is_checked()
    assert not page.evaluate("charts[0].single")
    groups = page.locator("#explore fieldset")
    assert groups.count() == 4
    assert groups.nth(1).locator("input:checked").count() == 0
    groups.nth(1).get_by_role("button").click()
    assert groups.nth(1).locator("input:checked").count() == 4


def test_arrow_keys_move_the_cursor_and_tab_reaches_everything(visit):
    page = visit()
    plot, _ = plot_of(page)
    page.locator("#figure-2").get_by_role("button", name="Single seeds").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "plot"
    page.keyboard.press("Home")
    assert plot.get_attribute("aria-valuenow") == plot.get_attribute("aria-valuemin")
    before = float(plot.get_attribute("aria-valuenow"))
    page.keyboard.press("ArrowRight")
    assert float(plot.get_attribute("aria-valuenow")) > before
    assert "32 images a step" in plot.get_attribute("aria-valuetext")
    whole = scale(page)
    page.keyboard.press("+")
    assert scale(page) != whole
    page.keyboard.press("0")
    assert scale(page) == whole
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.type") == "checkbox"


@pytest.mark.parametrize("kind", ["SVG", "PNG", "CSV"])
def test_figures_are_saved_from_the_page(visit, report, kind):
    page = visit()
    for name in ("figure-4", "figure-2"):
        with page.expect_download() as caught:
            page.locator(f"#{name} .files").get_by_role("button", name=f"Save {name} as {kind}").click()
        assert caught.value.suggested_filename == f"{name}.{kind.lower()}"
        content = Path(caught.value.path()).read_bytes()
        if kind == "CSV":
            assert content == (report / "figures" / f"{name}.csv").read_bytes()
        assert content.startswith({"SVG": b"<svg", "PNG": b"\x89PNG", "CSV": b"setting"}[kind])
        assert b"var(--" not in content


def test_without_scripts_the_drawings_stay(visit):
    page = visit(java_script_enabled=False)
    assert page.locator("#figure-2 .drawn svg").is_visible()
    assert page.locator("#figure-2 .live").count() == 0
    assert not page.locator("#explore").is_visible()


def test_dark_light_and_print(visit, tmp_path):
    page = visit(color_scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(background) == "rgb(20, 23, 27)"
    page.get_by_role("button", name="Light page").click()
    assert page.evaluate(background) == "rgb(255, 255, 255)"
    page.get_by_role("button", name="Dark page").click()
    page.emulate_media(media="print")
    assert page.evaluate(background) == "rgb(255, 255, 255)"
    assert page.locator("#figure-2 .drawn svg").is_visible()
    assert not page.locator("#figure-2 .live").is_visible()
    page.pdf(path=str(tmp_path / "page.pdf"))
    assert (tmp_path / "page.pdf").stat().st_size > 20_000


def test_nothing_is_wider_than_a_phone(visit):
    page = visit()
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_accessibility(visit, request):
    source = request.config.rootpath / "node_modules" / "axe-core" / "axe.min.js"
    if not source.is_file():
        pytest.skip("axe-core is not there (npm install --no-save axe-core in the checkout)")
    for scheme, rules in (("light", ""), ("dark", "{runOnly: ['cat.color']}")):
        page = visit(color_scheme=scheme, bypass_csp=True)
        page.add_script_tag(path=str(source))
        found = page.evaluate(f"axe.run({rules})")["violations"]
        assert [
            (one["id"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in ("serious", "critical")
        ] == []


def test_hostile_names_are_words(visit):
    page = visit()
    assert page.locator("#figure-2 .live .title").text_content().startswith("</script><img")
    assert page.locator("img").count() == 0
    assert page.evaluate("page.curves.length") == 3 + 4 + 4 + 3  # every setting of every arm


def test_a_study_in_which_all_diverged_is_quiet(visit, tmp_path, small_text, fakes):
    study = studies.changed(studies.parse(small_text.partition("[claims.b]")[0] + _FIGURE), seeds=1)
    directory = fakes.study(tmp_path / "s", study, lambda cell, seed, rng: fakes.planned(0, "diverged"))
    build_report(directory)
    page = visit(directory / "report" / "index.html")
    assert page.locator("#figure-2 .drawn svg").is_visible()
    assert page.locator(".live .plot").count() == 0
    assert not page.locator("#explore").is_visible()
    assert page.get_by_text("no complete run yet").count() > 0
