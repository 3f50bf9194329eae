"""Training with many processes: which of them this one is, and starting them.

Nothing here imports Keras. `process_group` finds coordinator, size and rank; `launcher` starts
processes on this machine or over ssh and watches them; `channel` and `watchdog` keep the processes
of a group together while they train.
"""
