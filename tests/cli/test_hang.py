"""A run that hangs is ended by its watchdog."""

from tiny_runs import environment, metrics_lines, start_with


def test_a_run_that_hangs_is_ended(config_file, compilation_cache, tmp_path):
    """The numbers of step 3 are read behind the dispatch of step 4, the last that begins."""
    process = start_with(
        ["hang_before=5"], "train", f"--config={config_file}", f"--workdir={tmp_path}",
        "--config.parallel.watchdog_secs=3", env=environment(compilation_cache),
    )  # fmt: skip
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (70, ""), err
    log = (tmp_path / "logs" / "process_0.log").read_text()
    for text in (err, log):
        assert "watchdog: no progress while training since " in text
        assert "(limit 3 s); the last finished step is 3." in text
        assert "in hang_for_ever" in text and "faults.py" in text
    assert [line["step"] for line in metrics_lines(tmp_path)] == [1, 2, 3]
