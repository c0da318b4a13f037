"""Programs by shape: compiled once for each, and one warning that names the shapes when there are many."""

import re

from jaxdp.inference.programs_by_shape import MAX_SHAPES, ProgramsByShape


def test_one_warning_names_the_shapes_and_what_helps(capsys):
    compiled = []
    programs = ProgramsByShape(
        "generation",
        lambda *shape: compiled.append(shape) or (lambda: shape),
        lambda rows, length: f"{rows} x {length}",
        "use one length",
    )
    shapes = [(1, length) for length in range(MAX_SHAPES)]
    for shape in shapes * 3:
        assert programs(*shape)() == shape
    assert compiled == shapes and not capsys.readouterr().err  # each once, and no warning yet
    for length in range(MAX_SHAPES, 2 * MAX_SHAPES):
        programs(2, length)
    told = " ".join(capsys.readouterr().err.split())
    listed = "; ".join([*(f"1 x {length}" for length in range(MAX_SHAPES)), f"2 x {MAX_SHAPES}"])
    assert re.findall("generation is compiled for", told) == ["generation is compiled for"]  # once
    assert f"for the 9th time, each time for another shape ({listed})" in told and told.endswith("use one length.")
