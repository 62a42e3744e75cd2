"""The correctness run: 50 clients, pipelines of 1 to 64, values up to 8 MB, a million answers, every byte checked."""
import harness

# An MGET is merged in memory: room for three values of 8 MB in one, so that no answer of this run is refused for its size.
ROOMY = {"chunks": 8192, "merge_limit": "100m"}


def test_a_million_answers():
    with harness.RedisCluster(masters=3, replicas=0) as cluster, harness.Puerta(cluster, **ROOMY) as p:
        with harness.Load(p.port, "-c", 50, "-n", 1000000, "-b", 8 << 20) as load:
            result = load.finish(timeout=400).check()
    print(result.text[-300:])
    assert result.answers >= 1000000
