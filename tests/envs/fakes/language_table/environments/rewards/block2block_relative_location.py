from language_table.environments.rewards import reward


class BlockToBlockRelativeLocationReward(reward.LanguageTableReward):
    wording = "block2block_relative_location {}"
