from scorer_contract import LearnerContract

from recsys_dagster.baselines.config import SASRecConfig


class TestSASRec(LearnerContract):
    name, floor = "sasrec", (0.455, 0.275)
    quick = SASRecConfig(epochs=3, batch_size=16, dimension=16, dropout=0.1)
    quality = SASRecConfig(epochs=4, dimension=32, layers=1, dropout=0.2, learning_rate=0.005)
