"""A run from seed to record: data and encoder, pretraining, evaluation, and the record of both."""
