"""Words whose period belongs to them, as the reference tokeniser has them; found by trying, not copied.

Every word of one to four letters and the vocabulary of the caption corpora was put before a period, in three
cases and in five contexts. What kept its period falls into the groups below. All entries are lower case.
"""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The period is part of the word, whatever follows.
ALWAYS = _words("""
adj adm adv alex assoc asst atty attys ave brig capt cf cie cmdr col cpl dept det dr drs elec ens ft gen
gov govs hon insp invt jos lieut lt maj messrs mlle mme mr mrs ms msgr mt natl pfc ph pres prof pvt rep
reps rev sen sens sfc sgt spc st ste supt supts treas vs wm
""")

# As above, but not when the word is written in capitals.
ALWAYS_UNLESS_UPPER = _words("mfg mtg")

# The period is part of the word; one that ends a sentence too is doubled, and the second one dropped later.
FINAL = _words("""
al ala apr ariz assn aug bhd bldg blvd bros calif co colo conn corp cos ct dak dec esq est etc ext feb
fla fri ga inc ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon mont neb nev nov oct okla
penn plc rd rt sep sept seq sq sr sys tel tenn thu thurs tue tues univ va vt wed wis wisc wyo
""")

# As FINAL, but only with a capital: "ill." and "la." in small letters are words.
FINAL_IF_CAPITALISED = frozenset(["ark", "az", "del", "ill", "la", "mass", "miss", "ore", "pa", "tex", "wash"])

# As FINAL, but not when the word is written in capitals.
FINAL_UNLESS_UPPER = _words("ppte ppty pte ptes pty ptys")

# Only before a digit: "no. 7", "fig. 5".
BEFORE_DIGIT = _words("art ca fig figs no nos op pp prop")

ALL = ALWAYS | ALWAYS_UNLESS_UPPER | FINAL | FINAL_IF_CAPITALISED | FINAL_UNLESS_UPPER | BEFORE_DIGIT

# After "N. " these begin a sentence when capitalised or in capitals, so that the single letter loses its period.
SENTENCE_STARTERS = _words("""
a about according after an as at but earlier he her here however if in it last many more now once one
other our she since so some such that the their then there these they this we what when while yet you
""")
