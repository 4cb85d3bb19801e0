"""Names of the files in the folder of a training run."""

LAST_FILE = "last.pth"  # everything needed to resume
BEST_FILE = "best.pth"  # EMA weights of the best evaluation
CONFIG_FILE = "config.json"  # the settings, for reading; checkpoints contain them too
PLAN_FILE = "plan.txt"
