from scorer_contract import POPULARITY, ScorerContract

from recsys_dagster.baselines.pop import train_popularity


class TestPopularity(ScorerContract):
    name, floor = "popularity", (0.85 * POPULARITY[0], 0.85 * POPULARITY[1])

    def train(self, data, config, output, runtime, checkpoint=None):
        return train_popularity(data, output)
