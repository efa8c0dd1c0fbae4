"""The main job, shown: train, learn a compact model, pack, race, report."""

from .models import demo_recipe as demo_recipe
from .run import run as run
