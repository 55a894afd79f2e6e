from language_table.environments.rewards import reward


class SeparateBlocksReward(reward.Separate):
    pass
