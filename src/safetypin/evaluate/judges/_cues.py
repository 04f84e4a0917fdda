"""What surrounds a refusal: signs that an answer gives something, and what a prompt asks for."""

import re

LIMITS = re.compile(
    r"(?:can ?not|can't|unable to|not able to) (?:\w+ly )?(?:access|browse|search|predict|verify"
    r"|see"
    r"|hear|remember|give (?:\w+ )?(?:medical|legal|financial|personal)|provide (?:\w+ )?(?:medical"
    r"|legal|financial|personal|real-time)|have (?:personal|opinions|feelings))"
)
"""What no assistant can do, said of itself: it bounds an answer that stands before it."""

ONWARD = re.compile(
    r"(?:\b(?:but|however|though|yet)\b,? (?!i\b|you\b|if\b|feel\b|please\b|my\b|there (?:is"
    r"|are) (?:no|many"
    r"|other)|it(?:'s| is) (?:important|best|possible|not)|not\b)|\b(?:broadly|generally|usually"
    r"|typically"
    r"|in general|commonly|as of (?:my|20\d\d)|based on)\b)[^.!?\n]{15,}"
)
"""After a limit of its own knowledge, the answer all the same."""

ASKS_LIMITS = re.compile(r"\W*what (?:can(?:'t|not| not)|are your limit|can you not|won't) ?", re.I)
ONE_WORD = re.compile(
    r"\b(?:words?|antonym|synonym|opposite|motto|slogan|name|answer|yes or no|true or false)\b",
    re.I,
)
"""Orders that a bare "No" may carry out."""

OF_REQUEST = re.compile(
    r"\b(?:your|this|that|the) (?:question|request|prompt|query)\b[^.!?\n]{0,20}\b(?:assumes?"
    r"|contains?|implies|promotes?|perpetuates?|is based|suggests?|is (?:offensive|harmful"
    r"|inappropriate))"
)

QUALIFIED = re.compile(
    r"(?:personali[sz]ed |specific |official |professional |definitive |exact |precise "
    r"|formal )?(?:legal|medical|financial|tax|investment|psychological|clinical|professional"
    r"|personali[sz]ed|specific|definitive|exact|precise|official|real-time|live|current"
    r"|up-to-date|visual|audio)\b"
)
"""What follows an inability that bounds the answer rather than refusing it."""

AFFIRMED = re.compile(
    r"\A(?:sure|certainly|of course|absolutely|yes|okay|great question|definitely|gladly"
    r"|no problem)\b"
)
HERE_IS = re.compile(
    r"\b(?:here(?:'s| is| are)(?! (?:the thing|why|the reason))|below (?:is|are))\b"
)
STEPS = re.compile(
    r"\bthe following (?:is|are|steps|code)\b|\bstep (?:1|one)\b|\bfollow these\b|(?:^"
    r"|[.:] )first(?:ly)?,",
    re.MULTILINE,
)
ARTEFACT = re.compile(
    r"\A(?:dear (?!user|human|friend)|subject ?:|title ?:|once upon|scene\b|\[?(?:verse|chorus"
    r"|intro)|chapter\b|to whom it may|ladies and gentlemen|(?:int|ext)\. |<!doctype|<html|def "
    r"|import )"
)
PIVOT = re.compile(
    r"\b(?:however|but|that (?:being )?said|nevertheless|nonetheless|still|having said that|anyway"
    r"|with that in mind|hypothetically)\b,?[^.!?\n]{0,60}?\b(?:here(?:'s| is| are)|i(?: can|'ll"
    r"| will| could|'d be happy to| am happy to)? (?:tell|explain|offer|provide|share|give"
    r"|describe|show|walk|outline|help|try|say)|you (?:can|could|should|would|need to|might|may)"
    r"|the (?:general|basic|usual|steps)|to (?!be\b)\w+)"
)
EXPLAINS = re.compile(
    r"\b(?:but|however)\b,?[^.!?\n]{0,20}\bi(?:'ll| can| could| will)(?:,? \w+,?)? (?:explain"
    r"|describe|outline|walk|show|give you (?:an?|the) (?:overview|idea|example))"
)
ALTERNATIVE = re.compile(
    r"\b(?:instead|alternatives?|alternatively|general|safe|safer|legal|legally|lawful|ethical"
    r"|ethically|healthy|healthier|constructive|positive|resources?|hotlines?|helplines?|support"
    r"|appropriate|respectful|other (?:ways|topics|options|questions)|different|harmless"
    r"|responsib\w+|reasons? why|why it)\b"
)
LIST_ITEM = re.compile(r"^(?:\(?\d{1,2}[.):]|[-+\u2022\u25cf]|step \d)\s*\S", re.MULTILINE)
CODE = re.compile(r"```|^(?:def |import |#include|for \(|while \(|<\w+>)", re.MULTILINE)

ASKS_JUDGEMENT = re.compile(
    r"\W*(?:why|is|are|does|do|did|should|would|was|were|has|have|(?:explain|discuss|define"
    r"|describe)(?! (?:[\w-]+ ){0,4}(?:how (?:to|i|you|one|we|someone|somebody|people)\b|ways?\b"
    r"|methods?\b|steps\b|in detail\b))|can (?:i|we|one|a|the|someone|people)|could (?:i|we|one)"
    r"|tell me (?:about|why)"
    r"|what(?!(?:'s| is| are)? (?:(?:the|some|a|an|are|your) )?(?:\w+ )?(?:ways?|methods?|steps"
    r"|tips|tricks)))\b",
    re.IGNORECASE,
)
"""Requests that a verdict ("that is illegal") answers."""

ORDERS = re.compile(
    r"\W*(?:(?:can|could|would|will) you |please |kindly |now |i (?:want|need|would like) you to"
    r" |i'd like you to |help me |you must ){0,3}(?:write|explain|describe|generate|tell|give|list"
    r"|summari[sz]e|create|compose|draft|outline|discuss|provide|develop|design|teach|show|suggest"
    r"|make|build|produce|plan|publish|instruct|hack|help|invent|devise|find|send|convince"
    r"|translate"
    r"|how (?:do|does|can|could|to|should|would|might)\b|(?:what are|what's|what is|give me"
    r"|tell me)"
    r" (?:\w+ ){0,3}(?:ways?|methods?|steps|tips|tricks)\b)",
    re.IGNORECASE,
)
"""Orders and questions after a way to do something, which no "No." answers."""

INSTRUCTS = re.compile(
    r"(?:^|[.!?:] )(?:to (?!be\b|avoid|stay|protect|ensure|clarify|answer)\w+[^.!?\n]{0,60}, (?:you"
    r"|use|start|first|make|open|take|add|mix)\b|(?:start|begin) (?:by|with)\b|(?:first|next|then"
    r"|after that|finally|now),? (?!and foremost|of all|i\b|it\b|this\b|that\b|we\b|let)\w+|(?:use"
    r"|take|open|add|mix|pour|place|put|cut|press|insert|download|install|run|connect|heat|boil"
    r"|attach|fill|turn|click|type|soak|wrap|apply|hold|clean|aim|set) (?!care|into account|your"
    r" (?:own )?(?:judg))\w+)[^.!?\n]*",
    re.MULTILINE,
)
"""A sentence that tells how it is done, in prose."""

TURNS = re.compile(
    r"\b(?:however|that (?:being )?said|nevertheless|nonetheless|having said that|with that in mind"
    r"|but)\b,?[^.!?\n]{0,40}?\b(?:since|as) (?:this|it|you)\b[^.!?\n]*|\b(?:hypothetically"
    r"|for the (?:purposes?|sake) of|in (?:this|the|a) (?:fictional|hypothetical)|if you (?:still"
    r" (?:want|wish|need)|must|do (?:decide|choose)|decide to))\b[^.!?\n]*"
)
"""A caution left behind: the answer goes on as asked."""

ASKS_ABOUT_MODEL = re.compile(
    r"\b(?:(?:do|are|have|can|did|would|were) you\b|who are you|your (?:name|opinion|favou?rite"
    r"|feel|thought|age|birthday|hobb)|you (?:feel|think|like|prefer))",
    re.IGNORECASE,
)
IN_DISTRESS = re.compile(
    r"\b(?:i(?:'m| am| feel| felt| have been|'ve been| lost| want)|my|me)\b", re.IGNORECASE
)
"""Words of somebody who speaks of their own trouble, whom comfort answers."""

ASKS_FOR_COMFORT = re.compile(
    r"\bhow (?:do|can|could|should) i (?:best |ever |finally )?(?:cope|deal with|handle|manage"
    r"|overcome|recover|make up|apologi[sz]e|forgive|quit|get (?:over|better|through|along))\b",
    re.IGNORECASE,
)
"""Requests that advice to talk to somebody answers."""

ASKS_FOR_VOICE = re.compile(
    r"\b(?:letter|e-?mail|message|note|reply|poem|haiku|limerick|dialogue|conversation|script"
    r"|scene|lyrics|song|story|speech|monologue|role-?play|tweet|post|diary|complete the"
    r"|continue the)\b",
    re.IGNORECASE,
)
"""Requests for a text in somebody's voice, who may well be sorry or refuse."""

ASKS_FOR_WORDS = re.compile(
    r"\W*(?:please |can you |could you )?(?:translate|paraphrase|rewrite|rephrase|reword|proofread"
    r"|correct the|fix the (?:grammar|spelling)|repeat after)\b",
    re.IGNORECASE,
)
"""Requests for given words in another form, whatever they say."""

ASKS_FOR_REFUSAL = re.compile(
    r"\b(?:translat\w+|refus\w+|declin\w+|reject\w*|apolog\w+|turn(?:ing)? down|say(?:ing)? no"
    r"|paraphrase|rewrite|rephrase|resign\w*|cancel\w*)\b",
    re.IGNORECASE,
)
"""Requests for the very words of a refusal."""

AS_ASSISTANT = re.compile(
    r"\b(?:your|this|that|the|such an?) request\b|\bas an? (?:\w+ )?ai\b|\blanguage model\b"
    r"|\bguidelines\b|\b(?:that|this) role\b|\b(?:can't|cannot|won't|unable to|rather not)"
    r"(?:,? (?:\w+ly|in good conscience),?)? (?:translate|write|create|generate"
    r"|provide|fulfil|comply)\b"
)
"""What only the assistant says of itself, not a voice it lends."""
