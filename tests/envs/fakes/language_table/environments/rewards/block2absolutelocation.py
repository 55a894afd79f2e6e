from language_table.environments.rewards import reward


class BlockToAbsoluteLocationReward(reward.LanguageTableReward):
    wording = "block2absolutelocation {}"
