"""The evaluation harness: an encoder and labelled data go in, numbers come out.

An evaluation chooses on a hold-out of train and hands in a ranking of classes per test image. It never holds the test
labels: `scoring.SealedLabels` reads them once per evaluation, after every choice.
"""
