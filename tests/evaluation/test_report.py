"""The report: complete, self-contained, and safe against whatever a model generates."""

import shutil
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from kgpt.evaluation.bootstrap import estimate
from kgpt.evaluation.plots import Axis, histogram, interval_plot
from kgpt.evaluation.report import compare, figure, render, same_data, write_report
from kgpt.evaluation.result import Estimate, EvaluationResult, Sample
from kgpt.evaluation.statistic import Statistic

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = (
    "<script>document.title='run'</script><img src=http://example.com/x onerror=alert(1)>"
    "</div></article></section><style>*{display:none}</style>&lt;\"'{{ 7*7 }}<!--"
)
finite = st.floats(-1e9, 1e9)


def result(name="A", losses=(3.0, 2.0, 4.0), text="some text", **changes):
    statistics = {
        "loss": Statistic.mean(list(losses), "lower"),
        "length_words": Statistic.mean([2.0, 5.0, 9.0], None),
    }
    found = EvaluationResult(
        name=name,
        model={"sha256": f"hash of {name}", "parameters": 1234567},
        data={"sources": ["my data"], "documents": 3},
        settings={"stride": 64, "context": None, "resamples": 200},
        metrics={metric: estimate(one, 200) for metric, one in statistics.items()},
        statistics=statistics,
        samples=[Sample("a prompt", text, "a reference", {"rep_4": 0.25})] * 3,
        versions={"kgpt": "9.8.7", "backend": "jax"},
        loss_by_position=[(1, 4.0), (2, 3.0), (4, 2.5)],
    )
    return replace(found, **changes)


class Page(HTMLParser):
    """The tags of a page in order, and its text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, tuple(name for name, _ in attrs)))

    def handle_endtag(self, tag):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


def test_all_that_is_needed_to_repeat_it_is_there():
    results = [result("first"), result("second", losses=(2.0, 1.0, 3.5))]
    text = Page(render(results, "kgpt eval --model 'a b'")).text
    for expected in (
        "first", "second", "my data", "hash of first", "1,234,567", "stride", "64", "context",
        "version.kgpt", "9.8.7", "version.backend", "jax", "kgpt eval --model 'a b'",
        "a prompt", "some text", "a reference", "rep-4 0.2500", "Loss of documents",
    ):  # fmt: skip
        assert expected in text, expected
    for one in results:
        for metric in one.metrics.values():
            assert figure(metric.value) in text and figure(metric.high) in text


def test_text_of_models_stays_text():
    usual = Page(render([result()], "command"))
    names = {"name": HOSTILE, "model": {HOSTILE: HOSTILE, "parameters": HOSTILE}}
    names |= {"data": {"sources": [HOSTILE], "documents": HOSTILE}, "versions": {HOSTILE: HOSTILE}}
    names |= {"samples": [Sample(HOSTILE, HOSTILE, HOSTILE, {HOSTILE: 1.0})]}
    html = render([result(**names)], HOSTILE)
    assert set(Page(html).tags) <= set(usual.tags)
    assert Page(html).text.count(HOSTILE) >= 8
    assert "script" not in str(usual.tags) and "src" not in str(usual.tags)
    assert "default-src 'none'" in html


def test_nothing_is_fetched_and_nothing_runs(tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    file = tmp_path / "report.html"
    write_report([result("A", text=HOSTILE), result(HOSTILE, text="\ud800 lone")], file, HOSTILE)
    requests, problems = [], []
    with playwright.sync_playwright() as tools:
        try:
            browser = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no browser: {str(error).splitlines()[0]}")
        page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: problems.append(message.text))
        page.goto(file.as_uri())
        assert requests == [file.as_uri()] and problems == []
        assert page.title() == "Evaluation: my data"
        assert page.locator("svg").count() == 5  # two metrics, three plots
        assert page.locator("article").count() == 3
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        dark = "getComputedStyle(document.body).backgroundColor"
        assert page.evaluate(dark) == "rgb(21, 25, 23)"
        page.emulate_media(media="print")
        assert page.evaluate(dark) == "rgb(255, 255, 255)"
        browser.close()


def test_models_on_the_same_data_are_compared():
    a, b = result("A"), result("B", losses=(2.0, 1.0, 3.0))
    other = result("C", data={"sources": ["other"]})
    assert [[one.name for one in group] for group in same_data([a, other, b])] == [
        ["A", "B"],
        ["C"],
    ]
    loss, length = compare([a, b]).rows
    assert loss.cells[0].difference is None and loss.cells[1].verdict == "better"
    assert loss.cells[1].difference.estimate.value == pytest.approx(-1)
    assert length.cells[1].verdict == "" and length.better is None
    assert compare([b, a]).rows[0].cells[1].verdict == "worse"
    assert "B is better than A: loss is 1.0000 lower" in compare([a, b]).verdicts[0]
    counts = [
        result(n, data={"sources": ["x"], "sha256": "y", "words": len(n)}) for n in ("A", "BB")
    ]
    assert len(same_data(counts)) == 1  # the same text, of which one model counts more
    text = Page(render([a, other, b])).text
    assert text.count("Evaluation on") == 2


def test_a_model_without_a_metric_or_a_sample_has_an_empty_place():
    bare = result("B", metrics={}, statistics={}, samples=[])
    one = compare([result(), bare])
    assert [cell.estimate for cell in one.rows[0].cells][1] is None
    assert [row[1] for row in one.samples] == [None] * 3
    assert "–" in Page(render([result(), bare])).text
    assert "Metrics" not in Page(render([bare])).text


@given(st.lists(finite, min_size=1, max_size=6))
@example([5e-324])
@example([1e9, 1e9 - 10])
@example([3.0, 3.0 + 1e-15])
def test_an_axis_keeps_the_order_and_labels_what_it_shows(values):
    axis = Axis.around(values, 10, 200)
    places = [axis.at(value) for value in sorted(values)]
    assert places == sorted(places) and all(10 <= place <= 200 for place in places)
    ticks = axis.ticks()
    assert all(10 <= tick.at <= 200 for tick in ticks)
    assert len({tick.label for tick in ticks}) == len(ticks) in range(2, 8)


@given(st.lists(st.tuples(finite, finite, finite).map(sorted), min_size=1, max_size=4))
def test_intervals_hold_their_value(triples):
    estimates = [Estimate(value, low, high) for low, value, high in triples]
    plot = interval_plot([None, *estimates])
    assert [one.model for one in plot.intervals] == list(range(1, len(triples) + 1))
    assert all(one.low <= one.value <= one.high for one in plot.intervals)


def test_a_histogram_counts_every_text():
    plot = histogram([[1.0, 1.0, 4.0], []], "words", "texts")
    (line,) = plot.lines
    heights = {float(point.split(",")[1]) for point in line.points.split()}
    ground, top = max(heights), min(heights)
    steps = {tick.label: tick.at for tick in plot.y_ticks}
    assert steps["0.0"] == ground and steps["2.0"] == top and len(heights) == 3


def test_the_terminal_names_metrics_as_the_report_does(capsys):
    from kgpt.cli.eval import show
    from kgpt.config import EvaluationConfig

    statistics = {
        "rep_4": Statistic.mean([0.5, 0.25], "lower"),
        "bleu": Statistic.mean([1.0, 2.0], "higher"),
    }
    metrics = {name: estimate(one, 20) for name, one in statistics.items()}
    found = result(metrics=metrics, statistics=statistics)
    show([found], EvaluationConfig(), Console(width=100))
    out = capsys.readouterr().out
    assert "rep-4" in out and "BLEU" in out and "rep 4" not in out
