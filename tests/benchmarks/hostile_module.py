"""A module of an agent that reads test data while it is imported."""

import gymnasium as gym
from hostile_agents import Honest

env = gym.make("MaskWorld-v1", task="unlearning/digits")
SHARE_OF_ONES = (env.unwrapped.task.splits.test.labels == 1).float().mean()


class Agent(Honest):
    name = "hostile_module"
