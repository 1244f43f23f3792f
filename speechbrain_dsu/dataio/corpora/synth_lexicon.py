"""Words and sentence frames of the speech generator: English, Spanish, French, German.

A row is one meaning in four languages, in the order of ``LANGUAGES``. German objects
stand in the accusative; the frames set the word order. The English column has every
phone of American English.
"""

LANGUAGES = ("en", "es", "fr", "de")


def _rows(table: str) -> tuple[tuple[str, ...], ...]:
    lines = table.strip().split("\n")
    return tuple(tuple(cell.strip() for cell in line.split("|")) for line in lines)


SUBJECTS = _rows("""
the teacher|la maestra|la maîtresse|die Lehrerin
my brother|mi hermano|mon frère|mein Bruder
our neighbour|nuestro vecino|notre voisin|unser Nachbar
the young boy|el niño|le garçon|der Junge
a quiet girl|una niña tranquila|une fille calme|ein ruhiges Mädchen
the old farmer|el viejo granjero|le vieux fermier|der alte Bauer
the judge|la jueza|la juge|die Richterin
your cousin|tu primo|ton cousin|dein Vetter
the nurse|la enfermera|l'infirmière|die Krankenschwester
a tall soldier|un soldado alto|un grand soldat|ein großer Soldat
the cook|el cocinero|le cuisinier|der Koch
the baker|el panadero|le boulanger|der Bäcker
this painter|este pintor|ce peintre|dieser Maler
the singer|la cantante|la chanteuse|die Sängerin
my father|mi padre|mon père|mein Vater
her mother|su madre|sa mère|ihre Mutter
the king|el rey|le roi|der König
the queen|la reina|la reine|die Königin
a clever thief|un ladrón listo|un voleur rusé|ein schlauer Dieb
the driver|el conductor|le chauffeur|der Fahrer
the doctor|el médico|le médecin|der Arzt
that student|ese estudiante|cet étudiant|jener Student
the gardener|el jardinero|le jardinier|der Gärtner
a poor fisherman|un pobre pescador|un pauvre pêcheur|ein armer Fischer
the pilot|la piloto|la pilote|die Pilotin
our uncle|nuestro tío|notre oncle|unser Onkel
the guest|el huésped|le visiteur|der Gast
the woman|la mujer|la femme|die Frau
a cheerful child|un niño alegre|un enfant joyeux|ein fröhliches Kind
the captain|el capitán|le capitaine|der Kapitän
the engineer|la ingeniera|la technicienne|die Ingenieurin
the shy poet|el poeta tímido|le poète timide|der scheue Dichter
""")

VERBS = _rows("""
sees|ve|voit|sieht
buys|compra|achète|kauft
finds|encuentra|trouve|findet
draws|dibuja|dessine|zeichnet
wants|quiere|veut|will
forgets|olvida|oublie|vergisst
carries|lleva|porte|trägt
loses|pierde|perd|verliert
watches|mira|regarde|beobachtet
hides|esconde|cache|versteckt
sells|vende|vend|verkauft
chooses|elige|choisit|wählt
measures|mide|mesure|misst
describes|describe|décrit|beschreibt
cleans|limpia|nettoie|putzt
touches|toca|touche|berührt
pulls|arrastra|tire|zieht
enjoys|disfruta|aime|genießt
needs|necesita|demande|braucht
brings|trae|apporte|bringt
throws|lanza|lance|wirft
checks|revisa|vérifie|prüft
moves|mueve|bouge|bewegt
shows|muestra|montre|zeigt
""")

OBJECTS = _rows("""
a red apple|una manzana roja|une pomme rouge|einen roten Apfel
the small boat|el barco pequeño|le petit bateau|das kleine Boot
three green chairs|tres sillas verdes|trois chaises vertes|drei grüne Stühle
an orange cup|una taza naranja|une tasse orange|eine orange Tasse
the heavy box|la caja pesada|la lourde boîte|die schwere Kiste
two yellow birds|dos pájaros amarillos|deux oiseaux jaunes|zwei gelbe Vögel
the treasure|el tesoro|le trésor|den Schatz
a silver coin|una moneda de plata|une pièce d'argent|eine silberne Münze
the wooden table|la mesa de madera|la table en bois|den hölzernen Tisch
a good book|un buen libro|un bon livre|ein gutes Buch
the blue jacket|la chaqueta azul|la veste bleue|die blaue Jacke
fresh bread|pan fresco|du pain frais|frisches Brot
a long letter|una carta larga|une longue lettre|einen langen Brief
the broken clock|el reloj roto|la montre cassée|die kaputte Uhr
five white horses|cinco caballos blancos|cinq chevaux blancs|fünf weiße Pferde
the thick rope|la cuerda gruesa|la grosse corde|das dicke Seil
a television|un televisor|une télévision|einen Fernseher
the golden ring|el anillo de oro|la bague en or|den goldenen Ring
some cheese|un poco de queso|du fromage|etwas Käse
the warm soup|la sopa caliente|la soupe chaude|die warme Suppe
a little mouse|un ratón pequeño|une petite souris|eine kleine Maus
the garage door|la puerta del garaje|la porte du garage|das Garagentor
eight brown eggs|ocho huevos morenos|huit gros oeufs|acht braune Eier
the noisy toys|los juguetes ruidosos|les jouets bruyants|die lauten Spielzeuge
a pink flower|una flor rosa|une fleur rose|eine rosa Blume
the rough stone|la piedra áspera|la pierre dure|den rauen Stein
a wild fox|un zorro salvaje|un renard sauvage|einen wilden Fuchs
the cold milk|la leche fría|le lait froid|die kalte Milch
a cushion|un cojín|un coussin|ein Kissen
the old bridge|el puente viejo|le vieux pont|die alte Brücke
six pairs of shoes|seis pares de zapatos|six paires de bottes|sechs Paar Schuhe
the usual ticket|el billete de siempre|le billet habituel|die übliche Fahrkarte
a leather bag|un bolso de cuero|un sac en cuir|eine lederne Tasche
both keys|ambas llaves|les deux clés|beide Schlüssel
a glass of water|un vaso de agua|un verre d'eau|ein Glas Wasser
the round mirror|el espejo redondo|le miroir rond|den runden Spiegel
the huge wheel|la rueda enorme|la roue énorme|das riesige Rad
a sharp knife|un cuchillo afilado|un couteau pointu|ein scharfes Messer
the young sheep|la oveja joven|le jeune mouton|das junge Schaf
a soft towel|una toalla suave|une serviette douce|ein weiches Handtuch
""")

PLACES = _rows("""
near the river|cerca del río|près de la rivière|am Fluss
behind the house|detrás de la casa|derrière la maison|hinter dem Haus
in the kitchen|en la cocina|dans la cuisine|in der Küche
under the bridge|debajo del puente|sous le pont|unter der Brücke
on the beach|en la playa|sur la plage|am Strand
at the market|en el mercado|au marché|auf dem Markt
in the garden|en el jardín|dans le jardin|im Garten
beside the church|junto a la iglesia|devant l'église|neben der Kirche
on the roof|en el techo|sur le toit|auf dem Dach
in front of the school|delante de la escuela|devant l'école|vor der Schule
by the lake|junto al lago|au bord du lac|am See
in a dark cave|en una cueva oscura|dans une grotte sombre|in einer dunklen Höhle
in the north|en el norte|dans le nord|im Norden
at the railway station|en la estación|à la gare|am Bahnhof
on the mountain|en la montaña|sur la montagne|auf dem Berg
in our village|en nuestro pueblo|dans notre village|in unserem Dorf
""")

TIMES = _rows("""
every morning|cada mañana|chaque matin|jeden Morgen
on Monday|el lunes|le lundi|am Montag
on Thursday|el jueves|le jeudi|am Donnerstag
after lunch|después de comer|après le repas|nach dem Essen
at night|por la noche|la nuit|in der Nacht
in July|en julio|en juillet|im Juli
once a year|una vez al año|une fois par an|einmal im Jahr
before the journey|antes del viaje|avant le voyage|vor der Reise
today|hoy|aujourd'hui|heute
without a word|sin una palabra|sans un mot|ohne ein Wort
with pleasure|con gusto|avec plaisir|mit Vergnügen
very often|muy a menudo|très souvent|sehr oft
""")

DIGITS = _rows("""
zero|cero|zéro|null
one|uno|un|eins
two|dos|deux|zwei
three|tres|trois|drei
four|cuatro|quatre|vier
five|cinco|cinq|fünf
six|seis|six|sechs
seven|siete|sept|sieben
eight|ocho|huit|acht
nine|nueve|neuf|neun
""")

FRAMES = _rows("""
{s} {v} {o} {p}|{s} {v} {o} {p}|{s} {v} {o} {p}|{s} {v} {o} {p}
{s} {v} {o} {t}|{s} {v} {o} {t}|{s} {v} {o} {t}|{s} {v} {t} {o}
{t}, {s} {v} {o}|{t}, {s} {v} {o}|{t}, {s} {v} {o}|{t} {v} {s} {o}
when {s} {v} {o}, {z} {w} {x}|cuando {s} {v} {o}, {z} {w} {x}|quand {s} {v} {o}, {z} {w} {x}|wenn {s} {o} {v}, {w} {z} {x}
{s} says that {z} {w} {x}|{s} dice que {z} {w} {x}|{s} dit que {z} {w} {x}|{s} sagt, dass {z} {x} {w}
{s} writes the numbers {n}|{s} escribe los números {n}|{s} écrit les chiffres {n}|{s} schreibt die Zahlen {n}
""")  # noqa: E501

SLOTS = {
    "s": SUBJECTS,
    "v": VERBS,
    "o": OBJECTS,
    "p": PLACES,
    "t": TIMES,
    "z": SUBJECTS,
    "w": VERBS,
    "x": OBJECTS,
}
"""Letters of the frames' gaps; ``z w x`` are a second subject, verb and object."""
