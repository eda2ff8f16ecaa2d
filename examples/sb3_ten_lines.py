import gymnasium as gym
from stable_baselines3 import PPO

from editgym.envs.sb3 import monitored

model = PPO("MlpPolicy", monitored(gym.make_vec("MaskWorld-v1", num_envs=64)), n_steps=32, seed=0)
model.learn(20_480)

env = gym.make("MaskWorld-v1")
env.step(model.predict(env.reset(seed=0)[0], deterministic=True)[0])
print(env.unwrapped.evaluate(env.unwrapped.journal).metrics)
