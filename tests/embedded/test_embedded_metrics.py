from embedded import up


def test_each_process_of_one_machine_has_a_metrics_port_of_its_own(monkeypatch):
    monkeypatch.setenv("EXPUNGE_METRICS_PORT", "9800")
    made = up.programs({"DATABASE_URL": "x"}, "http://h:1", "h", 1, workers=2)
    ports = {program.name: program.env["EXPUNGE_METRICS_PORT"] for program in made}
    assert {ports["loops"], ports["worker-1"], ports["worker-2"]} == {"9800", "9801", "9802"}


def test_without_the_setting_none_is_set(monkeypatch):
    monkeypatch.delenv("EXPUNGE_METRICS_PORT", raising=False)
    made = up.programs({}, "http://h:1", "h", 1, workers=1)
    assert not any("EXPUNGE_METRICS_PORT" in program.env for program in made)
