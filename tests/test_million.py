"""The correctness run: 50 clients, pipelines of 1 to 64, values up to 8 MB, a million answers, every byte checked."""
import harness


def test_a_million_answers():
    with harness.RedisCluster(masters=3, replicas=0) as cluster, harness.Puerta(cluster) as p:
        with harness.Load(p.port, "-c", 50, "-n", 1000000, "-b", 8 << 20) as load:
            result = load.finish(timeout=400).check()
    print(result.text[-300:])
    assert result.answers >= 1000000
