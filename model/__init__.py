"""The standalone two-phase trainer: reads a training set's Parquet, writes weights, metrics and recommendations.

What differs from SASRec (Kang and McAuley, 2018), and where; each part of the method has its switch in `config.py`:

- an item's vector is its adapted text, centred over the catalogue, plus a vector of its own (`network.ItemVectors`),
  which starts from the factorised co-occurrence of items (`cooccurrence.py`);
- blocks are pre-norm with GELU, their input is not scaled, and whole items are dropped (`network.Block`,
  `Network.read`);
- a position counts real items, and synthetic items are marked (`batches.Windows`, `Network.read`);
- a linear map per target domain turns the state into a query; scores are cosines over a temperature, and only items of
  the target's domain compete (`Network.by_domain`, `objective.Scores`);
- what is chosen lately adds to a score (`trends.py`);
- the loss is a softmax over shared negatives or all items (`losses.py`), and old targets count less
  (`batches.Sequences.batch`);
- states are pulled to the users' profiles (`losses.align`);
- phase 2 freezes all that and trains a reader per domain (`network.DomainReader`, `finetune.py`).

What computes the same faster:

- dropout is drawn from 16-bit numbers on CPU (`dropout.py`);
- rows that carry a gradient are read by `F.embedding`, not by an index: its gradient is summed in one order on any
  number of threads;
- the vectors of items are stepped only where a batch reads them, with dense AdamW's result (`rows.py`).
"""
