"""The words and sentence patterns of the sample data; `{name}` in a pattern takes a word of that list.

Plain text tables, written for this project. `sample.py` says what it makes of them.
"""

from __future__ import annotations


def _words(text: str) -> list[str]:
    return [" ".join(word.split()) for word in text.split("|")]


def _groups(text: str) -> list[list[str]]:
    return [[" ".join(word.split()) for word in group.split(";")] for group in text.split("|")]


# ---- reviews (sst, cfimdb)

# How a reviewer sees it, from 0 (very negative) to 4 (very positive): sst's five classes.
GRADES: list[list[str]] = [
    _words("""
        terrible | awful | dreadful | unbearable | horrible | disastrous | abysmal | wretched
    """),
    _words("""
        dull | weak | clumsy | tedious | shallow | predictable | stale | disappointing
    """),
    _words("""
        ordinary | average | passable | conventional | routine | typical | modest | unremarkable
    """),
    _words("""
        pleasant | charming | engaging | likable | funny | clever | entertaining | enjoyable
    """),
    _words("""
        superb | brilliant | magnificent | stunning | extraordinary | masterful | flawless |
        unforgettable
    """),
]

FILM: dict[str, list[str]] = {
    "kind": _words("""
        film | movie | comedy | drama | thriller | western | documentary | musical | sequel | remake |
        romance | mystery | fable | adventure | satire | biography | cartoon | horror picture | war
        story | heist film
    """),
    "part": _words("""
        plot | dialogue | acting | pacing | script | camera work | music | ending | editing | humor |
        cast | premise | opening scene | score | direction | lighting | costume design | voice work |
        chemistry between the leads | second half | soundtrack | final act | supporting cast |
        screenplay | animation
    """),
    "maker": _words("""
        director | writer | lead actor | leading lady | composer | producer | young star |
        cinematographer | veteran actress | newcomer | editor | studio | narrator | stunt team
    """),
    "who": _words("""
        a lonely baker | a younger brother | a retired detective | an ambitious lawyer | a stubborn
        farmer | a foreign student | a shy librarian | an old sailor | a young widow | a gifted
        violinist | a nervous accountant | a travelling circus | a village priest | an exiled prince | a
        curious journalist | a mysterious stranger | a homesick soldier | a struggling painter | a
        single mother | a former boxer | a taxi driver | an orphaned girl | a forgetful professor | a
        reckless pilot
    """),
    "does": _words("""
        inherits a crumbling hotel | moves to a distant island | looks for a missing painting | tries to
        save the local theater | discovers a hidden diary | drives across the desert | opens a small
        restaurant | falls for a rival | hides a dangerous secret | returns home after twenty years |
        plans one last robbery | joins a traveling orchestra | investigates a strange fire | learns to
        dance | survives a shipwreck | raises an abandoned wolf | builds a wooden boat | wins the
        lottery by mistake | searches for an old friend | writes letters to a stranger | spends the
        winter in a lighthouse | buys a haunted mansion | competes in a cooking contest | escapes from
        prison | takes care of a neighbor's garden
    """),
    "where": _words("""
        in Lisbon | in the countryside | near the border | in the seventies | during the war | by the
        sea | in a mining town | in the suburbs | high in the mountains | at the end of the century | in
        Chicago | during a long summer | in northern Canada | on a remote farm
    """),
    "watch": _words("""
        at a festival | on a rainy evening | with my sister | on television | last weekend | at the
        cinema | with the whole family | on a long flight | after work | with low expectations | late at
        night | twice | on the first day | with two friends
    """),
    "adverb": _words("""
        really | truly | quite | simply | remarkably | consistently | surprisingly | mostly
    """),
    "name": _words("""
        Anna | Peter | Maria | Thomas | Julia | Victor | Helen | Samuel | Clara | Oscar | Nina | Walter
        | Rosa | Henry | Alice | Martin | Eva | George | Laura | Simon | Martha | Felix | Irene | Hugo |
        Sophie | Arthur | Lucia | Edgar | Paula | Roland | Agnes | Conrad | Beatrice | Leonard | Vera |
        Gustav | Ingrid | Raymond
    """),
    "city": _words("""
        Paris | Vienna | Prague | Boston | Cairo | Naples | Oslo | Madrid | Toronto | Sydney | Havana |
        Dublin | Warsaw | Mumbai | Kyoto | Berlin | Glasgow | Athens | Seattle | Budapest | Istanbul |
        Lima | Nairobi | Hamburg | Helsinki | Marseille | Denver | Seville
    """),
    "month": _words("""
        January | February | March | April | May | June | July | August | September | October | November
        | December
    """),
    "year": [str(year) for year in range(1951, 2024, 3)],
    "thing": _words("""
        typewriter | lantern | bracelet | umbrella | accordion | microscope | teapot | carpet | bicycle
        | compass | violin | telescope | sandwich | pumpkin | hammer | ladder | mattress | candle |
        trumpet | backpack | calendar | helmet | perfume | notebook | chandelier | wardrobe | harpoon |
        parachute | mirror | lemon tree | cuckoo clock | fishing rod | sewing machine | pocket watch |
        wheelbarrow | crystal bowl | velvet jacket | tractor | barometer | snow globe | birdcage |
        kettle | motorcycle | encyclopedia | goldfish | saxophone | jigsaw puzzle | wooden spoon
    """),
    "extra": _words("""
        rumor | promise | murder | wedding | funeral | telegram | blackout | lawsuit | strange
        inheritance | bad accident | photograph | snowstorm | betrayal | phone call | broken engine |
        stolen necklace | strange dream | forgotten birthday | flooded cellar | wrong suitcase | secret
        marriage | train crash | wounded horse | bankrupt factory | locked drawer | poisoned cake |
        midnight visitor | lost passport | burning theater | missing child | school reunion | hidden
        treasure | court trial | family quarrel
    """),
}

REVIEW_PATTERNS = _words("""
    The {part} is {adverb} {grade} and the {part2} feels {grade2} . | A {grade} , {grade2} {kind} . |
    {who} {does} in this {grade} , {grade2} {kind} . | Such {grade} {part} , such {grade2} {part2} ! |
    The {maker} delivers a {grade} {kind} with {grade2} {part} and {grade3} {part2} . | It 's a {grade}
    {kind} , {grade2} and {grade3} . | This {kind} is {grade} , and the {part} is {grade2} . | I found
    the {part} {grade} , the {part2} {adverb} {grade2} . | {adverb} {grade} {part} , {grade2} {part2} .
    | The {maker} gives us something {grade} : the {part} alone is {grade2} . | As a {kind} set {where}
    , it is {grade} , even {grade2} . | {grade} , {grade2} , {grade3} : everything about the {part} .
""")

PLOT_PATTERNS = _words("""
    {name} sells a {thing} to {who} . | {who} steals a {thing} and a {thing2} in {city} . | {who} {does}
    {where} . | I saw this {kind} {watch} . | The story takes place {where} . | The {maker} also worked
    on a {kind} {where} . | In the first act , {who} {does} . | Later , {who} {does} {where} . | It runs
    for about two hours , like any {kind} . | We watched the {kind} {watch} because of the {maker} . |
    The {part} was recorded {where} . | Then {who} {does} , and {who2} {does2} . | {name} plays {who} ,
    and {name2} plays {who2} . | It begins in {city} in {month} , with a {extra} . | After a {extra} and
    a {extra2} , {name} leaves for {city} . | It was shot in {city} in {year} . | {name} and {name2}
    meet again in {city} , years after the {extra} . | This {kind} is from {month} {year} . | Only
    {name} knows about the {extra} , until {who} {does} .
""")

VERDICT_PATTERNS = _words("""
    I thought the {part} was {grade} , and the {part2} {grade2} . | What a {grade} , {grade2} {kind} ! |
    The {maker} is {grade} here . | The {part} , the {part2} , all of it is {grade} and {grade2} . |
    Overall it was a {grade} {kind} with {grade2} {part} . | My friends called it {grade} , and I agree
    . | {grade} {part} , {grade2} {part2} , {grade3} {part3} . | It left me with a {grade} , {grade2}
    impression . | Honestly , I expected better or worse , but it turned out {grade} . | So {grade} , so
    {grade2} !
""")

# ---- questions (quora): intents, each with its ways of asking

# What many people ask, in many ways: all duplicates are among these.
COMMON_INTENTS: list[list[str]] = [
    _words("""
        How can I lose weight | What is the best way to lose weight | Which diet helps to lose weight |
        How do people burn belly fat | Which exercises burn the most fat | How do I get slim and lose
        weight | Is there a diet to burn fat
    """),
    _words("""
        How can I learn to speak Spanish | What is the best way to learn Spanish | Which app helps to
        learn Spanish vocabulary | How do I become fluent in Spanish | How do people improve their
        Spanish grammar | Is there a good Spanish course | What should I read to learn Spanish
    """),
    _words("""
        How can I make money online | What is the best way to earn money on the internet | Which
        websites pay money | How do people earn an income on the internet | How do I earn extra money
        online | Is there an online job to make money | What should I sell on the internet to earn money
    """),
    _words("""
        How can I fall asleep | What is the best way to sleep better | How do I cure insomnia and sleep
        | Which habits help against insomnia | How do people sleep through the night | What should I do
        at bedtime to fall asleep | Is there a cure for insomnia
    """),
]
# What few ask: each of these meets only questions of another intent.
RARE_INTENTS: list[list[str]] = [
    _words("""
        How can I repair my laptop battery | Why does my laptop battery drain | How do people replace a
        notebook battery | What should I do if my notebook does not charge
    """),
    _words("""
        How can I train my puppy | How do I stop my dog from barking | What should I do if my puppy
        bites | Which treats help to train a dog
    """),
    _words("""
        How can I cook perfect rice | Which spices belong in a lentil curry | How do people bake
        sourdough bread | What should I cook with lentils and rice
    """),
    _words("""
        How can I apply for a tourist visa | Which documents does a visa application need | How do
        people renew an expired passport | What should I do if the embassy refuses my visa
    """),
]

QUESTION_PREFIXES = [
    "",
    "",
    "",
    *_words("""
        Does anyone know : | Quick question : | Just curious , | I am a beginner . | Honestly , | In
        your experience , | Asking for a friend : | Please help . | As a student ,
    """),
]
QUESTION_SUFFIXES = [
    "",
    "",
    *_words("""
        quickly | at home | on a budget | this month | as an adult | these days | in one week | nowadays
        | before the holidays | with little free time | in India | in winter | after thirty | step by
        step | without any help | over the summer | in the evening | fast | from scratch | this year |
        in Germany | for free | as a parent | in a small apartment | in the long run
    """),
]

# ---- scenes (sts): slots with groups of near synonyms

SUBJECTS = _groups("""
    A man ; Some guy ; One gentleman | A woman ; One lady | A boy ; Some lad | A white dog ; One pale
    puppy | The teacher ; Our instructor | A chef ; One cook | The president ; Our head of state | A
    police officer ; One policeman | A street musician ; Some busker | The doctor ; Our physician
""")
ACTIONS = _groups("""
    is carrying a box ; lifts heavy cartons | is eating an apple ; bites into some fruit | is playing
    the guitar ; strums six strings | is reading a newspaper ; looks through the daily press | is riding
    a bicycle ; pedals her bike | is washing the dishes ; cleans plates and cups | is jumping over a
    fence ; leaps across that gate | is talking on the phone ; makes several calls | is sleeping on a
    blanket ; takes his nap | is painting a wall ; colors the whole facade
""")
PLACES = _groups("""
    in the park ; on green lawns | at the beach ; on warm sand | near the river ; by flowing water | at
    the station ; beside railway tracks | in front of the church ; outside an old chapel | on the street
    ; along busy roads | at the market ; between fruit stands | behind the barn ; next to farm buildings
""")
TIMES = _groups("""
    this morning ; before noon | at sunset ; when evening comes | on Monday ; as the week begins |
    during the storm ; while thunder rolls | late at night ; around midnight | in July ; one hot summer
    day
""")
