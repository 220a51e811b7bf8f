"""The words of the world in twelve languages.

Nouns carry their gender, in Chinese their measure word. An adjective is given as a stem with "-", which takes the
language's regular endings; as its forms by gender with "/"; or as one form that never changes. All lists follow the
order of the English words in `scene`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Language:
    """One language: its word lists, and how a noun phrase, a list and a sentence are built."""

    code: str
    endings: Mapping[str, str]
    """gender -> regular ending of an adjective; its keys are the genders, in the order of forms with "/" """
    articles: Mapping[str, str]
    """gender -> indefinite article; genders that are not there have none"""
    order: str
    """where article, size, early (texture before the noun or colour), colour, late (texture after it) and noun stand"""
    nouns: str
    colours: str
    textures: str
    """those that stand early are marked by a leading ^"""
    sizes: str
    places: str
    relations: str
    """left, right, above, below, in front, behind, of what was named last; forms by its gender with "/" """
    conjunction: str
    comma: str = ", "
    space: str = " "
    stop: str = "."
    clause: str = ", "
    """what joins a thing and the thing related to it"""
    place_first: bool = False


GERMAN = Language(
    code="de",
    endings={"m": "er", "f": "e", "n": "es"},
    articles={"m": "ein", "f": "eine", "n": "ein"},
    order="article size early colour late noun",
    nouns="Kreis m, Quadrat n, Dreieck n, Stern m, Herz n, Kreuz n, Ring m, Mondsichel f, Raute f, Pfeil m, "
    "Boot n, Tropfen m, Blume f, Wolke f, Sanduhr f, Blitz m, Haus n, Fisch m, Baum m, Pilz m, Sechseck n",
    colours="rot-, grün-, blau-, gelb-, schwarz-, weiß-, orangefarben-, violett-, rosafarben-, braun-, türkisfarben-, "
    "grau-",
    textures="^einfarbig-, gestreift-, gepunktet-, kariert-, ^glänzend-",
    sizes="klein-, groß-",
    places="oben links, oben, oben rechts, links, in der Mitte, rechts, unten links, unten, unten rechts",
    relations="links davon, rechts davon, darüber, darunter, davor, dahinter",
    conjunction=" und ",
)

FRENCH = Language(
    code="fr",
    endings={"m": "", "f": "e"},
    articles={"m": "un", "f": "une"},
    order="article size noun colour late",
    nouns="cercle m, carré m, triangle m, étoile f, cœur m, croix f, anneau m, croissant m, losange m, flèche f, "
    "bateau m, goutte f, fleur f, nuage m, sablier m, éclair m, maison f, poisson m, arbre m, champignon m, hexagone m",
    colours="rouge, vert-, bleu-, jaune, noir-, blanc/blanche, orange, violet/violette, rose, marron, turquoise, gris-",
    textures="uni-, rayé-, à pois, à carreaux, brillant-",
    sizes="petit-, grand-",
    places="en haut à gauche, en haut, en haut à droite, à gauche, au milieu, à droite, en bas à gauche, en bas, "
    "en bas à droite",
    relations="à sa gauche, à sa droite, au-dessus, au-dessous, devant lui/devant elle, derrière lui/derrière elle",
    conjunction=" et ",
)

SPANISH = Language(
    code="es",
    endings={"m": "o", "f": "a"},
    articles={"m": "un", "f": "una"},
    order="article noun colour size late",
    nouns="círculo m, cuadrado m, triángulo m, estrella f, corazón m, cruz f, anillo m, medialuna f, rombo m, "
    "flecha f, barco m, gota f, flor f, nube f, reloj de arena m, rayo m, casa f, pez m, árbol m, hongo m, hexágono m",
    colours="roj-, verde, azul, amarill-, negr-, blanc-, naranja, morad-, rosa, marrón, turquesa, gris",
    textures="lis-, a rayas, de lunares, a cuadros, brillante",
    sizes="pequeñ-, grande",
    places="arriba a la izquierda, arriba, arriba a la derecha, a la izquierda, en el centro, a la derecha, "
    "abajo a la izquierda, abajo, abajo a la derecha",
    relations="a su izquierda, a su derecha, por encima, por debajo, delante, detrás",
    conjunction=" y ",
)

ITALIAN = Language(
    code="it",
    endings={"m": "o", "f": "a"},
    articles={"m": "un", "f": "una"},
    order="article noun colour size late",
    nouns="cerchio m, quadrato m, triangolo m, stella f, cuore m, croce f, anello m, mezzaluna f, rombo m, freccia f, "
    "barca f, goccia f, fiore m, nuvola f, clessidra f, fulmine m, casa f, pesce m, albero m, fungo m, esagono m",
    colours="ross-, verde, blu, giall-, ner-, bianc-, arancione, viola, rosa, marrone, turchese, grigi-",
    textures="in tinta unita, a righe, a pois, a quadri, lucid-",
    sizes="piccol-, grande",
    places="in alto a sinistra, in alto, in alto a destra, a sinistra, al centro, a destra, in basso a sinistra, "
    "in basso, in basso a destra",
    relations="alla sua sinistra, alla sua destra, al di sopra, al di sotto, davanti a esso/davanti a essa, "
    "dietro di esso/dietro di essa",
    conjunction=" e ",
)

PORTUGUESE = Language(
    code="pt",
    endings={"m": "o", "f": "a"},
    articles={"m": "um", "f": "uma"},
    order="article noun colour size late",
    nouns="círculo m, quadrado m, triângulo m, estrela f, coração m, cruz f, anel m, lua crescente f, losango m, "
    "seta f, barco m, gota f, flor f, nuvem f, ampulheta f, raio m, casa f, peixe m, árvore f, cogumelo m, hexágono m",
    colours="vermelh-, verde, azul, amarel-, pret-, branc-, laranja, rox-, rosa, marrom, turquesa, cinza",
    textures="lis-, listrad-, de bolinhas, xadrez, brilhante",
    sizes="pequen-, grande",
    places="no canto superior esquerdo, em cima, no canto superior direito, à esquerda, no centro, à direita, "
    "no canto inferior esquerdo, embaixo, no canto inferior direito",
    relations="à sua esquerda, à sua direita, acima, abaixo, à frente, atrás",
    conjunction=" e ",
)

DUTCH = Language(
    code="nl",
    endings={"c": "e", "n": ""},
    articles={"c": "een", "n": "een"},
    order="article size early colour late noun",
    nouns="cirkel c, vierkant n, driehoek c, ster c, hart n, kruis n, ring c, maansikkel c, ruit c, pijl c, boot c, "
    "druppel c, bloem c, wolk c, zandloper c, bliksemschicht c, huis n, vis c, boom c, paddenstoel c, zeshoek c",
    colours="rode/rood, groen-, blauw-, gele/geel, zwart-, witte/wit, oranje, paarse/paars, roze, bruin-, turquoise, "
    "grijze/grijs",
    textures="^effen, gestreept-, gestippeld-, geruit-, ^glanzend-",
    sizes="klein-, grote/groot",
    places="linksboven, bovenaan, rechtsboven, links, in het midden, rechts, linksonder, onderaan, rechtsonder",
    relations="links daarvan, rechts daarvan, daarboven, daaronder, daarvoor, daarachter",
    conjunction=" en ",
)

SWEDISH = Language(
    code="sv",
    endings={"c": "", "n": "t"},
    articles={"c": "en", "n": "ett"},
    order="article size early colour late noun",
    nouns="cirkel c, kvadrat c, triangel c, stjärna c, hjärta n, kors n, ring c, månskära c, romb c, pil c, "
    "båt c, droppe c, blomma c, moln n, timglas n, blixt c, hus n, fisk c, träd n, svamp c, sexhörning c",
    colours="röd/rött, grön-, blå/blått, gul-, svart, vit/vitt, orange, lila, rosa, brun-, turkos-, grå/grått",
    textures="^enfärgad/enfärgat, randig-, prickig-, rutig-, ^glänsande",
    sizes="liten/litet, stor-",
    places="uppe till vänster, upptill, uppe till höger, till vänster, i mitten, till höger, nere till vänster, "
    "nertill, nere till höger",
    relations="till vänster om den/till vänster om det, till höger om den/till höger om det, ovanför den/ovanför det, "
    "under den/under det, framför den/framför det, bakom den/bakom det",
    conjunction=" och ",
)

POLISH = Language(
    code="pl",
    endings={"m": "y", "f": "a", "n": "e"},
    articles={},
    order="size early colour noun late",
    nouns="koło n, kwadrat m, trójkąt m, gwiazda f, serce n, krzyż m, pierścień m, półksiężyc m, romb m, strzałka f, "
    "łódka f, kropla f, kwiat m, chmura f, klepsydra f, błyskawica f, dom m, ryba f, drzewo n, grzyb m, sześciokąt m",
    colours="czerwon-, zielon-, niebieski/niebieska/niebieskie, żółt-, czarn-, biał-, pomarańczow-, fioletow-, różow-, "
    "brązow-, turkusow-, szar-",
    textures="^jednolit-, w paski, w kropki, w kratkę, ^błyszcząc-",
    sizes="mał-, duż-",
    places="w lewym górnym rogu, u góry, w prawym górnym rogu, po lewej stronie, na środku, po prawej stronie, "
    "w lewym dolnym rogu, na dole, w prawym dolnym rogu",
    relations="na lewo od niego/na lewo od niej/na lewo od niego, "
    "na prawo od niego/na prawo od niej/na prawo od niego, nad nim/nad nią/nad nim, pod nim/pod nią/pod nim, "
    "przed nim/przed nią/przed nim, za nim/za nią/za nim",
    conjunction=" i ",
)

RUSSIAN = Language(
    code="ru",
    endings={"m": "ый", "f": "ая", "n": "ое", "p": "ые"},
    articles={},
    order="size early colour noun late",
    nouns="круг m, квадрат m, треугольник m, звезда f, сердце n, крест m, кольцо n, полумесяц m, ромб m, стрелка f, "
    "лодка f, капля f, цветок m, облако n, песочные часы p, молния f, дом m, рыба f, дерево n, гриб m, шестиугольник m",
    colours="красн-, зелён-, синий/синяя/синее/синие, жёлт-, чёрн-, бел-, оранжев-, фиолетов-, розов-, коричнев-, "
    "бирюзов-, сер-",
    textures="^однотонн-, ^полосат-, в горошек, ^клетчат-, ^блестящий/блестящая/блестящее/блестящие",
    sizes="маленький/маленькая/маленькое/маленькие, большой/большая/большое/большие",
    places="слева вверху, вверху, справа вверху, слева, в центре, справа, слева внизу, внизу, справа внизу",
    relations="слева от него/слева от неё/слева от него/слева от них, "
    "справа от него/справа от неё/справа от него/справа от них, над ним/над ней/над ним/над ними, "
    "под ним/под ней/под ним/под ними, перед ним/перед ней/перед ним/перед ними, за ним/за ней/за ним/за ними",
    conjunction=" и ",
)

TURKISH = Language(
    code="tr",
    endings={"x": ""},
    articles={"x": "bir"},
    order="size early colour late article noun",
    nouns="daire x, kare x, üçgen x, yıldız x, kalp x, haç x, halka x, hilal x, eşkenar dörtgen x, ok x, tekne x, "
    "damla x, çiçek x, bulut x, kum saati x, şimşek x, ev x, balık x, ağaç x, mantar x, altıgen x",
    colours="kırmızı, yeşil, mavi, sarı, siyah, beyaz, turuncu, mor, pembe, kahverengi, turkuaz, gri",
    textures="^düz, çizgili, puantiyeli, kareli, ^parlak",
    sizes="küçük, büyük",
    places="sol üstte, üstte, sağ üstte, solda, ortada, sağda, sol altta, altta, sağ altta",
    relations="solunda, sağında, üstünde, altında, önünde, arkasında",
    conjunction=" ve ",
    place_first=True,
)

CHINESE = Language(
    code="zh",
    endings={"个": "", "颗": "", "朵": "", "道": "", "座": "", "条": "", "棵": "", "艘": ""},
    articles={
        "个": "一个",
        "颗": "一颗",
        "朵": "一朵",
        "道": "一道",
        "座": "一座",
        "条": "一条",
        "棵": "一棵",
        "艘": "一艘",
    },
    order="article early colour late size noun",
    nouns="圆形 个, 正方形 个, 三角形 个, 星星 颗, 爱心 颗, 十字 个, 圆环 个, 月牙 个, 菱形 个, "
    "箭头 个, 船 艘, 水滴 颗, 花 朵, 云 朵, 沙漏 个, 闪电 道, 房子 座, 鱼 条, 树 棵, 蘑菇 个, 六边形 个",
    colours="红色, 绿色, 蓝色, 黄色, 黑色, 白色, 橙色, 紫色, 粉色, 棕色, 青绿色, 灰色",
    textures="^纯色的, 条纹, 圆点, 格子, ^闪亮的",
    sizes="小, 大",
    places="左上方有, 上方有, 右上方有, 左边有, 中间有, 右边有, 左下方有, 下方有, 右下方有",
    relations="左边是, 右边是, 上方是, 下方是, 前面是, 后面是",
    conjunction="和",
    comma="、",
    space="",
    stop="。",
    clause="，",
    place_first=True,
)

JAPANESE = Language(
    code="ja",
    endings={"x": ""},
    articles={},
    order="size early colour late noun",
    nouns="円 x, 正方形 x, 三角形 x, 星 x, ハート x, 十字 x, 輪 x, 三日月 x, ひし形 x, 矢印 x, "
    "船 x, しずく x, 花 x, 雲 x, 砂時計 x, 稲妻 x, 家 x, 魚 x, 木 x, キノコ x, 六角形 x",
    colours="赤い, 緑の, 青い, 黄色い, 黒い, 白い, オレンジ色の, 紫の, ピンクの, 茶色の, 青緑の, 灰色の",
    textures="^無地の, 縞模様の, 水玉模様の, チェック柄の, ^光沢のある",
    sizes="小さな, 大きな",
    places="左上に, 上に, 右上に, 左に, 中央に, 右に, 左下に, 下に, 右下に",
    relations="その左に, その右に, その上に, その下に, その手前に, その後ろに",
    conjunction="と",
    comma="、",
    space="",
    stop="。",
    clause="、",
    place_first=True,
)

LANGUAGES = {
    language.code: language
    for language in (
        GERMAN, FRENCH, SPANISH, ITALIAN, PORTUGUESE, DUTCH, SWEDISH, POLISH, RUSSIAN, TURKISH, CHINESE, JAPANESE,
    )
}  # fmt: skip
