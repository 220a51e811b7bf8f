from __future__ import annotations

import re
from itertools import product

import pytest

from diptych.world.language import Phrase, Plan
from diptych.world.lexicon import LANGUAGES
from diptych.world.scene import COLOURS, PLACES, PREDICATES, SHAPES, SIZES, TEXTURES, Relation
from diptych.world.translations import translations

FLOWER = Phrase(0, "flower", "white", "striped", "large", "at the top left")
HEART = Phrase(1, "heart", "black", "plain", "small", "on the right")

LIST = {
    "de": "eine große weiße gestreifte Blume und ein kleines einfarbiges schwarzes Herz",
    "fr": "une grande fleur blanche rayée et un petit cœur noir uni",
    "es": "una flor blanca grande a rayas y un corazón negro pequeño liso",
    "it": "un fiore bianco grande a righe e un cuore nero piccolo in tinta unita",
    "pt": "uma flor branca grande listrada e um coração preto pequeno liso",
    "nl": "een grote witte gestreepte bloem en een klein effen zwart hart",
    "sv": "en stor vit randig blomma och ett litet enfärgat svart hjärta",
    "pl": "duży biały kwiat w paski i małe jednolite czarne serce",
    "ru": "большой полосатый белый цветок и маленькое однотонное чёрное сердце",
    "tr": "büyük beyaz çizgili bir çiçek ve küçük düz siyah bir kalp",
    "zh": "一朵白色条纹大花和一颗纯色的黑色小爱心",
    "ja": "大きな白い縞模様の花と小さな無地の黒いハート",
}
LEFT = {
    "de": "ein schwarzes Herz, links davon eine weiße Blume",
    "fr": "un cœur noir, à sa gauche une fleur blanche",
    "es": "un corazón negro, a su izquierda una flor blanca",
    "it": "un cuore nero, alla sua sinistra un fiore bianco",
    "pt": "um coração preto, à sua esquerda uma flor branca",
    "nl": "een zwart hart, links daarvan een witte bloem",
    "sv": "ett svart hjärta, till vänster om det en vit blomma",
    "pl": "czarne serce, na lewo od niego biały kwiat",
    "ru": "чёрное сердце, слева от него белый цветок",
    "tr": "siyah bir kalp, solunda beyaz bir çiçek",
    "zh": "一颗黑色爱心，左边是一朵白色花",
    "ja": "黒いハート、その左に白い花",
}
LONG = {
    "de": "Eine weiße Blume oben links. Ein schwarzes Herz rechts.",
    "fr": "Une fleur blanche en haut à gauche. Un cœur noir à droite.",
    "es": "Una flor blanca arriba a la izquierda. Un corazón negro a la derecha.",
    "it": "Un fiore bianco in alto a sinistra. Un cuore nero a destra.",
    "pt": "Uma flor branca no canto superior esquerdo. Um coração preto à direita.",
    "nl": "Een witte bloem linksboven. Een zwart hart rechts.",
    "sv": "En vit blomma uppe till vänster. Ett svart hjärta till höger.",
    "pl": "Biały kwiat w lewym górnym rogu. Czarne serce po prawej stronie.",
    "ru": "Белый цветок слева вверху. Чёрное сердце справа.",
    "tr": "Sol üstte beyaz bir çiçek. Sağda siyah bir kalp.",
    "zh": "左上方有一朵白色花。右边有一颗黑色爱心。",
    "ja": "左上に白い花。右に黒いハート。",
}


def short(phrase: Phrase) -> Phrase:
    return Phrase(phrase.box, phrase.category, phrase.colour, place=phrase.place)


def test_a_list_in_every_language():
    assert translations(Plan("partial", (FLOWER, HEART))) == LIST


def test_a_relation_in_every_language():
    plan = Plan("relations", (short(FLOWER), short(HEART)), (Relation(0, "left of", 1),))
    assert translations(plan) == LEFT


def test_sentences_in_every_language():
    assert translations(Plan("long", (short(FLOWER), short(HEART)))) == LONG


def test_commas_and_loose_ends():
    three = (Phrase(0, "star"), Phrase(1, "house"), Phrase(2, "tree"))
    found = translations(Plan("short", three))
    assert found["de"] == "ein Stern, ein Haus und ein Baum"
    assert found["zh"] == "一颗星星、一座房子和一棵树"
    related = translations(Plan("relations", three, (Relation(0, "above", 1),)))
    assert related["de"] == "ein Haus, darüber ein Stern; ein Baum"
    assert related["ja"] == "家、その上に星；木"


def test_agreement_in_number_and_gender():
    hours = translations(Plan("short", (Phrase(0, "hourglass", "blue", "shiny", "large"),)))
    assert hours["ru"] == "большие блестящие синие песочные часы"  # песочные часы have no singular
    assert hours["pl"] == "duża błyszcząca niebieska klepsydra"
    behind = Plan("relations", (Phrase(0, "star"), Phrase(1, "hourglass")), (Relation(0, "behind", 1),))
    assert translations(behind)["ru"] == "песочные часы, за ними звезда"
    assert translations(behind)["pl"] == "klepsydra, za nią gwiazda"
    assert translations(behind)["it"] == "una clessidra, dietro di essa una stella"


# Names of emoji in Unicode CLDR 48 (annotations), a source of its own for words, agreement and order
CLDR = {
    "red heart": "de rotes Herz, fr cœur rouge, es corazón rojo, it cuore rosso, pt coração vermelho, nl rood hart, "
    "sv rött hjärta, pl czerwone serce, tr kırmızı kalp, ja 赤いハート",
    "blue heart": "de blaues Herz, fr cœur bleu, es corazón azul, it cuore blu, pt coração azul, nl blauw hart, "
    "sv blått hjärta, pl niebieskie serce, ru синее сердце, tr mavi kalp, ja 青いハート",
    "white flower": "fr fleur blanche, es flor blanca, it fiore bianco, pt flor branca, nl witte bloem, sv vit blomma, "
    "pl biały kwiat, ru белый цветок, tr beyaz çiçek",
    "large orange diamond": "de große orangefarbene Raute, fr grand losange orange, es rombo naranja grande, "
    "it rombo arancione grande, pt losango laranja grande, nl grote oranje ruit, pl duży pomarańczowy romb, "
    "ru большой оранжевый ромб, zh 橙色大菱形",
    "small blue diamond": "de kleine blaue Raute, fr petit losange bleu, es rombo azul pequeño, it rombo blu piccolo, "
    "pt losango azul pequeno, nl kleine blauwe ruit, sv liten blå romb, pl mały niebieski romb, zh 蓝色小菱形",
    "yellow square": "de gelbes Quadrat, fr carré jaune, es cuadrado amarillo, it quadrato giallo, "
    "pt quadrado amarelo, nl geel vierkant, sv gul kvadrat, pl żółty kwadrat, ru желтый квадрат, tr sarı kare",
    "green circle": "es círculo verde, it cerchio verde, pt círculo verde, nl groene cirkel, sv grön cirkel, "
    "pl zielone koło, ru зеленый круг, tr yeşil daire",
    "purple circle": "es círculo morado, it cerchio viola, pt círculo roxo, nl paarse cirkel, sv lila cirkel, "
    "pl fioletowe koło, ru фиолетовый круг, tr mor daire",
    "brown heart": "de braunes Herz, fr cœur marron, es corazón marrón, it cuore marrone, pt coração marrom, "
    "nl bruin hart, sv brunt hjärta, pl brązowe serce, ru коричневое сердце, tr kahverengi kalp",
    "grey heart": "de graues Herz, fr cœur gris, es corazón gris, it cuore grigio, pt coração cinza, nl grijs hart, "
    "sv grått hjärta, pl szare serce, ru серое сердце, tr gri kalp, ja 灰色のハート",
    "pink heart": "fr cœur rose, es corazón rosa, it cuore rosa, pt coração rosa, nl roze hart, sv rosa hjärta, "
    "pl różowe serce, ru розовое сердце, tr pembe kalp, ja ピンクのハート",
    "black circle": "es círculo negro, it cerchio nero, pt círculo preto, nl zwarte cirkel, sv svart cirkel, "
    "pl czarne koło, ru черный круг, tr siyah daire",
}
_ARTICLE = re.compile(r"^(ein|eine|un|une|una|um|uma|een|en|ett) |\bbir |^一\w")


@pytest.mark.parametrize("english", CLDR)
def test_words_and_agreement_as_in_cldr(english):
    words = english.split()
    said = {("size" if word in SIZES else "colour" if word in COLOURS else "category"): word for word in words}
    ours = translations(Plan("short", (Phrase(0, **said),)))
    for entry in CLDR[english].split(", "):
        code, _, name = entry.partition(" ")
        assert _ARTICLE.sub("", ours[code]).replace("ё", "е") == name


def test_every_word_is_there_in_every_language():
    for language in LANGUAGES.values():
        lists = (language.colours, language.textures, language.sizes, language.places, language.relations)
        english = (COLOURS, TEXTURES, SIZES, PLACES, PREDICATES)
        for theirs, ours in zip(lists, english, strict=True):
            assert len(theirs.split(", ")) == len(set(theirs.split(", "))) == len(ours), language.code
        nouns = [noun.rpartition(" ") for noun in language.nouns.split(", ")]
        assert len({noun for noun, _, _ in nouns}) == len(SHAPES), language.code
        assert {gender for _, _, gender in nouns} == set(language.endings), language.code
        for forms in ", ".join((*lists[:3], language.relations)).split(", "):
            assert forms.count("/") in (0, len(language.endings) - 1), (language.code, forms)


def test_different_things_are_called_differently():
    phrases = [Phrase(0, *words) for words in product(SHAPES[:4], COLOURS[:4], TEXTURES, SIZES)]
    told = [translations(Plan("short", (phrase,))) for phrase in phrases]
    for code in LANGUAGES:
        texts = {one[code] for one in told}
        assert len(texts) == len(phrases)
        assert not any("  " in text or "-" in text or "/" in text or "^" in text for text in texts)


def test_cut_outs_are_named_where_their_name_is_known():
    names = {"dog": {"de": "Hund", "fr": "chien"}, "cat": {"de": "Katze"}}
    pair = (Phrase(0, "dog", size="large"), Phrase(1, "cat"))
    assert translations(Plan("short", pair), names) == {"de": "Hund und Katze"}
    assert translations(Plan("short", pair[:1]), names) == {"de": "Hund", "fr": "chien"}
    assert translations(Plan("relations", pair, (Relation(0, "above", 1),)), names) == {}
