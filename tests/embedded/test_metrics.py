from expunge.embedded import up


def test_each_process_of_one_machine_has_a_metrics_port_of_its_own(monkeypatch):
    monkeypatch.setenv("EXPUNGE_METRICS_PORT", "9800")
    made = up.list_programs({"EXPUNGE_DATABASE_URL": "x"}, "http://h:1", "h", 1, workers=2)
    ports = {program.name: program.env["EXPUNGE_METRICS_PORT"] for program in made}
    assert {ports["loops"], ports["worker-1"], ports["worker-2"]} == {"9800", "9801", "9802"}


def test_without_the_setting_none_is_set(monkeypatch):
    monkeypatch.delenv("EXPUNGE_METRICS_PORT", raising=False)
    made = up.list_programs({}, "http://h:1", "h", 1, workers=1)
    assert not any("EXPUNGE_METRICS_PORT" in program.env for program in made)


def test_workers_of_a_machine_with_several_gpus_take_one_each_in_turn(monkeypatch):
    monkeypatch.delenv("EXPUNGE_DEVICE", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0, 2")
    made = {
        program.name: program.env.get("EXPUNGE_DEVICE")
        for program in up.list_programs({}, "http://h:1", "h", 1, workers=3)
    }
    assert made == {
        "loops": None,
        "api": None,
        "worker-1": "cuda:0",
        "worker-2": "cuda:1",
        "worker-3": "cuda:0",
    }
    monkeypatch.setenv("EXPUNGE_DEVICE", "cpu")
    assert not any(
        "EXPUNGE_DEVICE" in program.env for program in up.list_programs({}, "http://h:1", "h", 1, workers=3)
    )


def test_gpus_are_counted_without_cuda(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for address in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / address).mkdir()
    assert up.count_gpus(tmp_path) == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert up.count_gpus(tmp_path) == 0
