from language_table.environments.rewards import reward


class BlockToBlockReward(reward.LanguageTableReward):
    wording = "block2block {}"
