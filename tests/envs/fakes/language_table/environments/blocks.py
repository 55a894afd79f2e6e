import enum


class LanguageTableBlockVariants(enum.Enum):
    BLOCK_4 = "BLOCK_4"
    BLOCK_8 = "BLOCK_8"
