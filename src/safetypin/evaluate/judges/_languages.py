"""Refusals in other languages: the common forms, searched in the opening only."""

import re

# ruff: noqa: RUF001  (letters of other alphabets are the point)

_NO_BUT = r"[^.!?。！？\n]{0,60}"
_PATTERNS = {
    "de": rf"(?:tut mir (?:sehr )?leid|entschuldigung|entschuldige|leider"
    rf"|bedaure){_NO_BUT}\b(?:aber|kann"
    rf"|darf|werde)\b{_NO_BUT}|\bich (?:kann|darf|werde|möchte)\b{_NO_BUT}\b(?:nicht"
    rf"|keine?n?)\b{_NO_BUT}"
    r"(?:helfen|unterstützen|geben|bereitstellen|anbieten|beantworten|erstellen|schreiben"
    r"|nachkommen)",
    "fr": rf"(?:désolée?|je m'excuse|navrée?|malheureusement|je regrette){_NO_BUT}\b(?:mais|je"
    rf" ne)\b"
    r"|\bje (?:ne (?:peux|puis|pourrai|suis)(?! que)|refuse)\b(?: pas| malheureusement"
    r" pas)? (?:\w+ ){0,2}(?:en"
    r" mesure|aider|fournir|répondre|donner|vous|t'aider|de |créer|écrire|autorisé|capable)",
    "es": rf"(?:lo siento|lo lamento|disculpa|perdón|lamentablemente){_NO_BUT}\b(?:pero|no"
    rf" puedo|no es)\b"
    r"|\bno (?:puedo|podré|estoy (?:autorizad|capacitad|program)|me es posible)\w*\b (?:\w+ ){0,2}"
    r"(?:ayudar|proporcionar|ofrecer|dar|responder|cumplir|asistir|crear|escribir|generar"
    r"|brindar|hacer)",
    "it": rf"(?:mi dispiace|mi spiace|purtroppo|mi scuso|spiacente){_NO_BUT}\b(?:ma|non posso"
    rf"|non sono)\b"
    r"|\bnon (?:posso|sono in grado di|sono autorizzat)\w* (?:\w+ ){0,2}(?:aiutar|fornir"
    r"|rispond|dar|assist|crear|scriver|generar|soddisf)\w*",
    "pt": rf"(?:desculpe|sinto muito|lamento|infelizmente|peço desculpas?){_NO_BUT}\b(?:mas|não"
    rf" posso"
    r"|não consigo)\b|\bnão (?:posso|consigo|estou (?:autorizad|apto))\w* (?:\w+ ){0,2}(?:ajud"
    r"|fornec|respond|dar|auxili|atend|cri|escrev|oferec|fazer)\w*",
    "nl": rf"(?:het spijt me|sorry|helaas){_NO_BUT}\b(?:maar|ik kan|kan ik)\b|\bik (?:kan|mag"
    rf"|zal)\b{_NO_BUT}\b(?:niet|geen)\b{_NO_BUT}(?:helpen|geven|verstrekken|beantwoorden|bieden"
    rf"|voldoen|maken)",
    "pl": rf"(?:przykro mi|przepraszam|niestety){_NO_BUT}\b(?:ale|nie mogę)\b|\bnie mogę"
    rf" (?:\w+ ){{0,2}}"
    r"(?:pomóc|udzielić|odpowiedzieć|podać|spełnić|dostarczyć)",
    "tr": r"(?:üzgünüm|özür dilerim|maalesef)[^.!?\n]{0,80}(?:ama|ancak|\w+(?:amam|emem"
    r"|amıyorum|emiyorum))",
    "sv": rf"(?:tyvärr|förlåt|ursäkta|jag beklagar){_NO_BUT}\b(?:men|kan (?:jag )?inte)\b"
    r"|\bjag (?:kan|får|vill) (?:tyvärr )?inte (?:hjälpa|ge|tillhandahålla|svara|skriva|skapa)",
    "id": rf"(?:maaf|mohon maaf|sayangnya){_NO_BUT}\b(?:tapi|tetapi|namun|tidak (?:dapat|bisa))\b"
    r"|\bsaya tidak (?:dapat|bisa|akan) (?:\w+ )?(?:mem(?:bantu|berikan|buat)|menyediakan"
    r"|menjawab)",
    "vi": rf"xin lỗi{_NO_BUT}(?:nhưng|không thể)|\btôi không thể (?:giúp|cung cấp|hỗ trợ|trả lời)",
    "cs": rf"(?:je mi líto|bohužel|omlouvám se|promiňte){_NO_BUT}\b(?:ale|nemohu|nemůžu)\b"
    r"|\b(?:nemohu|nemůžu) (?:\w+ ){0,2}(?:pomoci|pomoct|poskytnout|odpovědět|vytvořit)",
    "uk": rf"(?:вибач(?:те)?|пробач(?:те)?|на жаль|перепрошую){_NO_BUT}(?:\bале\b|не можу|не буду)",
    "ru": rf"(?:извини(?:те)?|прости(?:те)?|к сожалению|мне жаль|сожалею){_NO_BUT}(?:\bно\b|не"
    rf" (?:могу|буду|"
    r"способ))|\bя не (?:могу|буду|в состоянии|имею права|стану|способ\w+)[^.!?\n]{0,30}(?:помо"
    r"|предост|отве|да(?:ть|вать)|выполн|созда|написа|обсужд|поддерж|сказать)",
    "zh": r"(?:对不起|對不起|抱歉|很遗憾|很遺憾|不好意思)"
    r"[^。\n]{0,40}(?:不能|无法|無法|不会|不會|不可以|不便)"
    r"|(?:我|作为|作為)[^。\n]{0,30}(?:不能|无法|無法|不会|不會|拒绝|拒絕)"
    r"[^。\n]{0,12}(?:提供|帮助|幫助|协助|協助"
    r"|回答|满足|滿足|支持|生成|创建|撰写|给|讨论|執行|执行)",
    "ja": r"(?:申し訳|すみません|ごめんなさい|残念ながら)"
    r"[^。\n]{0,60}(?:できません|できかね|いたしかね|ません|お断り)"
    r"|(?:お手伝い|お答え|ご案内|提供|お応え|回答|支援|協力)"
    r"[^。\n]{0,14}(?:できません|できかね|いたしかね)",
    "ko": r"(?:죄송|미안|유감)[^.\n]{0,60}(?:없|않|못|어렵|불가)"
    r"|(?:도와|제공|답변|도움|응답|작성|지원)[^.\n]{0,16}(?:수 없|않|못합|어렵)",
    "ar": r"(?:عذرا|عذرًا|آسف|أعتذر|للأسف|المعذرة)[^.\n]{0,60}(?:لا|لن|ولكن|لكن)"
    r"|(?:لا (?:أستطيع|يمكنني|أقدر)|لن (?:أستطيع|أتمكن|أقدم)|لست قادر)",
    "hi": r"(?:क्षमा|माफ़|माफ|खेद)[^।\n]{0,80}(?:नहीं|लेकिन|असमर्थ)"
    r"|(?:मैं|मै)[^।\n]{0,60}(?:नहीं (?:कर|दे|बता|लिख)|असमर्थ|मदद नहीं)",
}
_CUES = {
    "de": ("leid", "schuldig", "bedaure", "ich "),
    "fr": ("désol", "excuse", "navré", "malheureusement", "je "),
    "es": ("siento", "lamento", "disculpa", "perdón", "lamentablemente", "no p", "no est", "no me"),
    "it": ("spia", "purtroppo", "scuso", "non "),
    "pt": ("desculpe", "muito", "lamento", "infelizmente", "desculpa", "não "),
    "nl": ("spijt", "helaas", "ik ", "sorry"),
    "pl": ("przykro", "przepraszam", "niestety", "nie mogę"),
    "tr": ("üzgünüm", "özür", "maalesef"),
    "sv": ("tyvärr", "förlåt", "ursäkta", "jag "),
    "id": ("maaf", "sayangnya", "saya tidak"),
    "vi": ("xin lỗi", "tôi không"),
    "cs": ("líto", "bohužel", "omlouvám", "promiňte", "nemoh", "nemůžu"),
}
"""What the pattern of a language in Latin script needs: most answers then skip it."""
_LATIN = [(cues, re.compile(_PATTERNS[language])) for language, cues in _CUES.items()]
_OTHER = re.compile(
    "|".join(f"(?:{pattern})" for language, pattern in _PATTERNS.items() if language not in _CUES)
)


def foreign_refusal(opening: str) -> re.Match[str] | None:
    """Return the refusal in the opening of an answer, in any of the languages listed above."""
    for cues, pattern in _LATIN:
        if any(cue in opening for cue in cues) and (match := pattern.search(opening)):
            return match
    return None if opening.isascii() else _OTHER.search(opening)
