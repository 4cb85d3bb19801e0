"""Names of the files in the folder of a training run."""

LAST_FILE = "last.pth"  # everything needed to resume
BEST_FILE = "best.pth"  # the averaged weights of the best evaluation
CONFIG_FILE = "config.json"  # the settings, for people; a checkpoint holds them too
PLAN_FILE = "plan.txt"
