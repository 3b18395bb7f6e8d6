"""The graph: what runs again after a change, and what does not."""

from pathlib import Path

import pytest

from synth_pipeline.graph import Graph, Input, Node
from synth_pipeline.store import Output, Store


class Chain:
    """source -> double -> total, where double hangs on one half of source only."""

    def __init__(self, root: Path) -> None:
        self.graph = Graph(Store(root))
        self.ran: list[str] = []
        self.text = {"left": "1", "right": "2"}
        self.source_steps = 1

    def nodes(self) -> list[Node]:
        def make_source(inputs, out_dir, progress):
            self.ran.append("source")
            for name, value in self.text.items():
                (out_dir / name).write_text(value)
            return Output(parts={name: f"digest of {v}" for name, v in self.text.items()})

        def make_double(inputs, out_dir, progress):
            self.ran.append("double")
            (out_dir / "double").write_text(str(2 * int((inputs["source"] / "left").read_text())))
            return Output()

        def make_total(inputs, out_dir, progress):
            self.ran.append("total")
            (out_dir / "total").write_text((inputs["double"] / "double").read_text() + "!")
            return Output()

        source = Node("source", "", 1, {"steps": self.source_steps, **self.text}, make_source)
        double = Node("double", "a", 1, {}, make_double, (Input("source", source, "left"),))
        total = Node("total", "", 1, {}, make_total, (Input("double", double),))
        return [source, double, total]

    def run(self) -> list[str]:
        self.ran.clear()
        self.graph = Graph(Store(self.graph.store.root))
        for node in self.nodes():
            self.graph.make(node)
        return list(self.ran)

    def plan(self) -> list[tuple[str, str, str]]:
        graph = Graph(Store(self.graph.store.root))
        return [(row.stage, row.status, row.reason) for row in graph.plan(self.nodes())]


@pytest.fixture
def chain(tmp_path):
    return Chain(tmp_path)


def test_second_run_runs_nothing(chain):
    assert chain.run() == ["source", "double", "total"]
    assert chain.run() == []
    assert all(status == "cached" for _, status, _ in chain.plan())


def test_change_in_another_part_stops_at_the_part(chain):
    chain.run()
    chain.text["right"] = "3"
    assert chain.run() == ["source"]


def test_change_in_the_part_goes_through(chain):
    chain.run()
    chain.text["left"] = "5"
    assert chain.run() == ["source", "double", "total"]


def test_same_bytes_again_stop_the_change(chain):
    chain.run()
    chain.source_steps = 2
    assert chain.run() == ["source"]


def test_damage_in_the_middle_runs_that_stage_alone(chain):
    chain.run()
    path = chain.graph.artifact(chain.nodes()[1]).path / "double"
    path.write_text("9")
    assert [status for _, status, _ in chain.plan()] == ["cached", "run", "cached"]
    assert chain.run() == ["double"]


def test_plan_says_why(chain):
    assert chain.plan() == [
        ("source", "run", "never made"),
        ("double", "run", "waits for source"),
        ("total", "run", "waits for double a"),
    ]
    chain.run()
    chain.source_steps = 4
    rows = chain.plan()
    assert rows[0] == ("source", "run", "steps went from 1 to 4")
    assert rows[1] == ("double", "run", "waits for source")


def test_input_that_is_not_keyed_must_only_be_there(tmp_path):
    graph = Graph(Store(tmp_path))

    def write(text):
        def body(inputs, out_dir, progress):
            (out_dir / "file").write_text(text)
            return Output()

        return body

    keys = set()
    for text in ("one", "two"):
        source = Node("source", "", 1, {"text": text}, write(text))
        user = Node("user", "", 1, {}, write("same"), (Input("source", source, keyed=False),))
        graph = Graph(Store(tmp_path))
        graph.make(source)
        keys.add(graph.make(user)[0].key)
    assert len(keys) == 1


def test_what_does_not_hang_on_a_made_node_is_not_looked_at_again(tmp_path):
    """Of n independent nodes each is resolved once, not once for each that is made."""

    class Counting(Store):
        looks = 0

        def look(self, recipe):
            self.looks += 1
            return super().look(recipe)

    def body(inputs, out_dir, progress):
        (out_dir / "x").write_text("x")
        return Output()

    def looks(count: int) -> int:
        store = Counting(tmp_path / str(count))
        graph = Graph(store)
        nodes = [Node("leaf", str(n), 1, {}, body) for n in range(count)]
        end = Node("end", "", 1, {}, body, tuple(Input(node.name, node) for node in nodes))
        for node in [*nodes, end]:
            assert graph.resolve(end).recipe is None or node is end
            graph.make(node)
        return store.looks

    assert looks(40) < 2.5 * looks(20)


def test_what_hangs_on_the_same_content_is_made_once(tmp_path):
    """Two nodes whose key leaves out what they are called; planned before either is made."""
    graph, ran = Graph(Store(tmp_path)), []

    def make_source(inputs, out_dir, progress):
        (out_dir / "file").write_text("x")
        return Output(parts={"few": "a", "many": "a", "most": "b"})

    def make_training(inputs, out_dir, progress):
        ran.append(1)
        (out_dir / "weights").write_text("w")
        return Output()

    def first_alike(part):
        def label(parts):
            return min(name for name, d in parts["source"].items() if d == parts["source"][part])

        return label

    source = Node("source", "", 1, {}, make_source)
    few, many, most = (
        Node(
            "training",
            part,
            1,
            {},
            make_training,
            (Input("source", source, part),),
            key_label=first_alike(part),
        )
        for part in ("few", "many", "most")
    )
    graph.make(source)
    assert [row.status for row in graph.plan([few, many, most])] == ["run"] * 3
    executed = [graph.make(node)[1] for node in (few, many, most)]
    assert executed == [True, False, True]
    assert len(ran) == 2
    assert graph.artifact(few).path == graph.artifact(many).path
    assert [row.status for row in graph.plan([few, many, most])] == ["cached"] * 3
