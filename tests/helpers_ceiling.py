"""The problems on which ceilings are tried."""

SPEC = "mnist-1v7-dnn:n_train=24:epochs=3:lr=0.05"
LINEAR = "mnist-1v7-lr:n_train=24:epochs=3"
ROUGH = "mnist-1v7-dnn:setting=trained:epochs=2:n_train=16:batch_size=8"
SAME = f"{ROUGH}:data_seed=0"
SMALL = "mnist-1v7-lr:n_train=8:epochs=1"
