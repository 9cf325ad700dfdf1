"""The standalone two-phase trainer: reads a training set's Parquet, writes weights, metrics and recommendations.

The rooms, in the order of the data; each imports only those before it:

- `config.py`: every setting and preset; each part of the method has its switch there;
- `data/`: the training set in memory, windows of sequences, batches;
- `network/`: item vectors, the shared transformer, domain adapters, profiles, recency popularity;
- `loss/`: the next-item losses, and the terms beside them, such as align;
- `checkpoint.py`: the folder of a phase;
- `evaluation/`: candidates, ranks, metrics, groups of users, comparison of runs and of checkpoints;
- `training/`: shared pre-training, domain fine-tuning, the trainer of both, and their start from an earlier run;
- `recommend.py`: the best items per user and domain, of the training set or of histories given now;
- `explain.py`: the parts of a user's scores, and what they are without each item of the history;
- `exported.py`: a phase as a folder that recommends by itself; `history_scorer.py`: as a program of torch.export.

What differs from SASRec (Kang and McAuley, 2018), and where:

- an item's vector is its adapted text, centred over the catalogue, plus a vector of its own
  (`network/item_vectors.py`), which starts from the factorised co-occurrence of items (`network/id_init.py`);
- blocks are pre-norm with GELU (`network/block.py`); their input is not scaled, and whole items are dropped
  (`Network.encode`);
- a position counts real items, and synthetic items are marked (`data/sequences.py`, `Network.encode`);
- a linear map per target domain turns the state into a query (`Network.shared_query`); scores are cosines over a
  temperature, and only items of the target's domain compete (`loss/scores.py`);
- recency popularity adds to a score (`network/recency_popularity.py`);
- the loss is a softmax over shared negatives or all items (`loss/softmax.py`), and old targets count less
  (`Sequences.batch`);
- states are pulled to the users' profiles (`loss/align.py`);
- phase 2 freezes all that and trains an adapter per domain, over the transformer's states of that domain's items alone
  (`network/domain_adapter.py`, `training/domain_finetuning.py`).

What computes the same faster:

- dropout is drawn from 16-bit numbers on CPU (`network/dropout.py`);
- rows that carry a gradient are read by `F.embedding`, not by an index: its gradient is summed in one order on any
  number of threads;
- the id vectors of items are stepped only where a batch reads them, with dense AdamW's result (`lazy_adamw.py`);
- phase 2 computes the frozen transformer's states once and not in each epoch (`training/frozen_states.py`).
"""
