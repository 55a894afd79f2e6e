from language_table.environments.rewards import reward


class BlockToRelativeLocationReward(reward.LanguageTableReward):
    wording = "block2relativelocation {}"
