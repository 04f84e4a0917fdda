"""How assistants refuse in English: named families of wording, as patterns over normalised text.

Strong families turn the request down by themselves. Weak ones (a caution, a verdict on the request,
"as an AI ...") are a refusal only where the answer then gives nothing.
"""

import re

_I = r"\b(?:i|we)"
_ADVERBS = (
    r"(?:,? ?(?:\w+ly|just|also|still|therefore|thus|either|at this time|in good conscience"
    r"|under any circumstances?|as an? [^,.]{0,60}),?){0,3}"
)
_ACTS = (
    # What an assistant is asked to do; a first-person story says "I can't" of other things.
    r"(?:help(?! (?:but|\w+ing|it|myself|feeling|falling)\b)|assist|aid|provide|fulfil|comply"
    r"|answer|create|write|generate|produce|compose|draft|develop|design|build|offer|engage|share"
    r"|supply|give (?!up|in\b|away my|myself)|support|discuss|participate|condone|encourage"
    r"|promote|endorse|recommend(?! (?:\w+ ){0,4}enough)|suggest|facilitate|advise|advocate|guide"
    r"|teach|instruct|tell (?!if|whether|from|the difference)|explain|describe|do (?:that|this|so"
    r"|what|anything)|continue|satisfy|respond|reply|disclose|reveal|access|browse|search|open"
    r"|complete|perform|carry out|execute|process|proceed|accept|accommodate|grant|allow|permit"
    r"|approve|justify|contribute|role-?play|pretend|simulate|imitate|impersonate|act (?:as|on|in"
    r"|out)|play the|speak (?:on|about|to|for)|comment|express|form (?:an? )?opinion"
    r"|hold (?:personal|any)|have (?:personal|opinions|feelings)|take (?:part|sides|any)|entertain"
    r"|indulge|honou?r|make (?:any|a |an |such|jokes|fun|light|up|assumptions|judg|that|this"
    r"|statements|derog|offen)|be (?:used|of (?:any )?(?:help|assistance)|able|a part|part of"
    r"|party|involved)|identify|locate|predict|confirm|verify|diagnose|prescribe|list|name"
    r"|summari[sz]e|repeat|include|display|show|send|post|publish|call|order|book|buy|purchase"
    r"|sell|track|hack|harm|translate|advance|enable|walk you|go (?:into|along|through|there"
    r"|ahead)|say (?:that|anything|such)|talk about|get into|deliver|point you|direct you|present"
    r"|draw|output|agree to|consent|knowingly|ethically|legally|ever)"
)
_AI = r"(?:an? )?(?:[\w-]+,? (?:and )?){0,6}?(?:ai|a\.i\.|artificial intelligence|language model)\b"
_BAD = (
    r"(?:inappropriate|not (?:\w+ )?appropriate|offensive|harmful|unethical|immoral|illegal"
    r"|unlawful|disrespectful|not (?:\w+ )?acceptable|unacceptable|dangerous|problematic|hateful"
    r"|hurtful|discriminatory|insensitive|derogatory|not ethical|not legal|not suitable|not okay"
    r"|not ok|not factually coherent|nonsensical|does(?:n't| not) make (?:any )?sense)"
)
_REQUEST = (
    r"(?:request|question|prompt|query|topic|instruction|task|statement|language|premise|content"
    r"|subject|scenario|idea|term|joke)s?"
)

STRONG = {
    "inability": re.compile(
        rf"{_I},?{_ADVERBS} (?:can ?not|can't|cant|could not|couldn't|won't|will not|(?:would not"
        rf"|wouldn't)(?! (?:recommend|advise|suggest))|should not|shouldn't|shall not|must not"
        rf"|may not|refuse to|decline to)(?:,? (?:and|or|nor) (?:\w+ )?(?:will|would|should|shall"
        rf"|do|can|won't|can't) ?(?:not)?)?,?{_ADVERBS} {_ACTS}"
    ),
    "unable": re.compile(
        rf"{_I}(?: am|'m| are|'re| was|'ll be| will be| would be| feel"
        rf"| remain)?{_ADVERBS} (?:unable|not(?: \w+ly| yet)? (?:able|allowed|permitted"
        rf"|authori[sz]ed|(?:in a )?position|programmed|designed|capable|equipped|comfortable"
        rf"|willing|at liberty|prepared|trained|built|made|meant|intended|supposed|going to (?!lie"
        rf"|sugar))|uncomfortable|incapable|unwilling|prohibited|forbidden|restricted|reluctant"
        rf"|programmed to (?:avoid|refuse|decline|not))\b"
    ),
    "decline": re.compile(
        rf"{_I}(?:'m going to|'ll| must| have to| need to| will|'ll have to| will have to"
        rf"| would have to| should| shall"
        rf"| am going to(?: have to)?| respectfully| politely| kindly| firmly| strongly"
        rf"| feel obliged to)(?: \w+ly)? (?:decline|refuse|refrain|reject|pass on|abstain|say no"
        rf"|turn (?:this|that|down)|disagree with (?:this|that|your) request)|{_I} (?:decline"
        rf"|refuse) to (?!give up|believe)|{_I}(?:'d| would) (?:rather|prefer) (?:not|to not)"
        rf"|{_I}(?:'m| am) (?:declining|refusing)\b"
        rf"|\A[^.!?\n]{{0,30}}\bi (?:refuse|decline)(?:[.!]|\Z)"
    ),
    "do not": re.compile(
        rf"{_I},?{_ADVERBS} (?:do not|don't|never|would never|will never)(?: \w+ly)? (?:provide"
        rf"|create|generate|offer|engage|assist|help|participate|answer|produce|discuss|write"
        rf"|facilitate|respond|feel comfortable|comply|support (?:or|the creation|requests)"
        rf"|wish to|want to (?:help|assist|provide|write|create|be)|have the (?:ability|capability"
        rf"|capacity|authority|means)|think (?:i|that i) (?:can|should)|think (?:it(?:'s| is)"
        rf"|that(?:'s| is)|this is) (?:appropriate|right|okay|ok|ethical|a good idea))"
    ),
    "not something": re.compile(
        r"(?:\bnot|n't) (?:something|a topic|an? (?:request|subject|task|area|question)) (?:that "
        r"|which )?(?:i|we)(?:'m| am|'d| would| can| could| will)?\b|\bsomething (?:that "
        r"|which )?(?:i|we)(?:'m| am)? (?:can't|cannot|won't|will not|don't|do not|not able|unable"
        r"|not comfortable|not willing)"
    ),
    "no subject": re.compile(
        r"\A(?:(?:no|sorry|nope|apologies|my apologies)[,.!:;-]* (?:but )?)?(?:(?:can't|cannot"
        rf"|can not|unable to|not able to|won't|will not|not going to|refuse to) {_ACTS}"
        r"|i (?:won't|will not|can't|cannot|refuse)(?: (?:do (?:that|this|it)))?(?=[.!]|\Z)"
        r"|no can do|(?:i'm |i am )?not (?:doing (?:this|that|it)\b|going (?:there|near)|touching))"
    ),
    "steps back": re.compile(
        rf"{_I}(?:'ll| will| would|'d|'m| am| must| think| need| have| going| like| prefer"
        rf"| to){{0,5}}"
        r" (?:pass(?: on (?:this|that|it|your)|(?=[.!]|\Z))|take a pass|sit this (?:one )?out"
        r"|stop you"
        r"|stop (?:right )?(?:here|there)|draw (?:the|a) line|step away|opt out|steer clear)\b"
        r"|\b(?:count|leave) me out\b|\bi'm out\b[.!]|\bcrosses (?:a|the|my) line for me\b"
        r"|\bi(?:'m| am) still learning how to\b"
    ),
    "other subject": re.compile(
        r"\b(?:i think|i suggest|i'd (?:prefer|like|rather|suggest)|let's|let us|we should|we could"
        r"|perhaps we|maybe we|(?:can|could|shall) we|why don't we|how about we)[^.!?\n]{0,30}"
        r"\b(?:change the (?:topic|subject)|(?:talk about|discuss|focus on|explore|move on to"
        r"|try|do) something (?:else|different|more (?:positive|constructive|productive)))"
    ),
    "beyond": re.compile(
        r"\b(?:falls?|is|are|lies?|goes|'s) (?:\w+ )?(?:outside|beyond) (?:of )?(?:what (?:i|we)\b"
        r"|my (?:scope|purpose|remit|role|abilit|capabilit|expertise|function|boundaries)"
        r"|the (?:scope|bounds|range|limits) of (?:what|my|our))"
    ),
    "only lawful": re.compile(
        rf"{_I} (?:can|am able to|may|will) only (?:help|assist|answer|support|respond)"
        r"[^.!?\n]{0,30}\b(?:lawful|legal|ethical|safe|appropriate|harmless|positive)\b"
        r"|\b(?:there's|there is) no way (?:that )?(?:i|we)(?:'m| am|'ll| will|'d| would| can)\b"
        r"|\bit would be (?:\w+ly )?(?:irresponsible|wrong|unethical|inappropriate|remiss|immoral)"
        r"(?: \w+)? (?:of|for) (?:me|us) to\b|\blet's not go there\b"
    ),
    "passive": re.compile(
        rf"\b{_REQUEST}\b[^.!?\n]{{0,60}} (?:can ?not|can't|won't|will not|should not) be "
        r"(?:fulfilled|answered|completed|processed|granted|honou?red|met|provided|accommodated)"
    ),
    "policy": re.compile(
        r"\b(?:against|violat\w+|contrary to|outside|beyond|not (?:with)?in|inconsistent with"
        r"|not aligned with|not in line with|conflicts? with|breach\w*|breaks?"
        r"|goes against) (?:of )?(?:the (?:scope|bounds|limits|range) of )?(?:my|our|openai's"
        r"|openai|the (?:content|use|usage|ethical|safety|community)|content|ethical and"
        r"|ethical (?:guidelines|standards))\b[^.!?\n]{0,60}?\b(?:programming|guidelines?"
        r"|polic(?:y|ies)|values|principles|ethics|purpose|design|capabilit(?:y|ies)|scope|rules"
        r"|terms|standards|training|moral\w*|code|use.case|expertise|boundaries|programmed)\b"
    ),
    "not appropriate": re.compile(
        r"\b(?:not|never|in)(?: \w+)? ?(?:appropriate|acceptable|ethical|respectful|okay|ok|fair"
        r"|right)(?:,? (?:or|and|nor) \w+)? (?:for me )?to (?:make|ask|use|suggest|generali[sz]e"
        r"|stereotype|promote|speculate|discuss|joke|compare|assume|share|provide|request|give"
        r"|answer|engage|create|write|generate|offer|assist|help|seek|spread|disclose|reveal|judge"
        r"|label)\b"
    ),
    "prevented": re.compile(
        r"\bmy (?:\w+ ){0,4}(?:programming|guidelines?|training|design|polic(?:y|ies)|principles"
        r"|purpose|creators?|values|instructions)\b[^.!?\n]{0,50}\b(?:prevents?|prohibits?"
        r"|forbids?|restricts?|(?:do|does)(?:n't| not) (?:allow|permit|let|include|extend)"
        r"|not to)\b"
    ),
    "apology": re.compile(
        r"\b(?:sorry|apologi[sz]e|apologies)\b(?! (?:for|about|to|if)\b)(?:[^.!?\n,;]{0,40}"
        r"| -+),? (?:but|however)\b(?!,? (?:that(?:'s| is| was)|this is|it(?:'s| is)) (?:incorrect"
        r"|wrong|false|not (?:correct|true|right|quite)|a (?:common )?(?:myth|mis)))"
        rf"|\b(?:sorry|apologi[sz]e|apologies|unfortunately|regret"
        rf"|afraid)\b[^.!?\n]{{0,20}}{_I}(?:'m| am|'ll| will)?{_ADVERBS} (?:can't|cannot|can not"
        rf"|won't|not|unable|don't|do not|must)\b"
        r"|\b(?:afraid|unfortunately),? (?:that|this|it)(?:'s| is) (?:not|impossible|out of)\b"
    ),
}
"""Each turns the request down wherever it stands in the opening."""

WEAK = {
    "knowledge": re.compile(
        rf"{_I},?{_ADVERBS} (?:do not|don't|lack)(?: \w+ly)? ?(?:have|possess|store|retain|know)?"
        r"(?: (?:any|the|enough|specific|sufficient|real-time|direct|up-to-date|personal|access"
        r"|private|an?|current|to|or|and|physical|own|my)){0,6} (?:information|data|details"
        r"|knowledge|records?|opinions?|beliefs?|feelings?|preferences?|emotions?|experiences?"
        r"|access|body|abilit(?:y|ies)|capabilit(?:y|ies)|context)\b|\bthere is no (?:publicly "
        r"|known |available |public )*(?:information|record|data)\b"
    ),
    "identity": re.compile(
        rf"\b(?:as|i am|i'm|being)(?: just| only| simply"
        rf"| merely)? {_AI}[^.!?\n]{{0,160}}?(?:\bnot\b"
        r"|n't\b|\bcannot\b|\bunable\b|\bmust\b|\bshould\b|\bethic\w*)"
        r"|\bas an? (?:\w+,? (?:and )?){0,3}(?:responsible|ethical|respectful|law-abiding|harmless)"
        r"[\w ,-]{0,40}\b(?:assistant|model|chatbot|agent|system)\b"
    ),
    "judgement": re.compile(
        rf"\b(?:your|this|that|the|these|such(?: an?)?"
        rf"|any) (?:\w+ ){{0,3}}{_REQUEST}\b[^.!?\n]{{0,70}}?\b(?:is|are|appears?|seems?|contains?"
        rf"|promotes?|violates?|may be|could be|involves?|constitutes?"
        rf"|does)\b[^.!?\n]{{0,60}}?\b{_BAD}|\b(?:is|are) (?:a |an )?(?:highly |very "
        rf"|deeply )?{_BAD} (?:\w+ )?{_REQUEST}\b"
        rf"|\b(?:what you(?:'re| are)? (?:describ|ask|request|suggest|propos)\w*|your (?:plan"
        rf"|request)|this"
        rf" request)\b[^.!?\n]{{0,40}}\b(?:{_BAD}|hurts?|harms?|endangers?|breaks? the law"
        rf"|a crime)\b"
        r"|\b(?:request|question|prompt|that|this) raises? (?:\w+ ){0,2}concerns\b"
    ),
    "moral": re.compile(
        r"\b(?:it|that|this|doing so)(?:'s| is| would be| can be)(?: \w+){0,2} (?:(?:never"
        r"|not) (?:\w+ )?"
        rf"(?:okay|ok|acceptable|appropriate|ethical|legal|right|moral|advisable|recommended)"
        rf"|wrong|{_BAD})"
        r"[^.!?\n]{0,30}\b(?:to|for)\b|\b(?:is|are|would be)(?: \w+){0,3} (?:illegal|unethical"
        r"|immoral|wrong|harmful|dangerous|unlawful|offensive|inappropriate|against the law)(?:,"
        r"| and| or)[^.!?\n]{0,40}?\b(?:illegal|unethical|immoral|wrong|harmful|dangerous|unlawful"
        r"|offensive|inappropriate|disrespectful|against|unacceptable|can|could|should|may"
        r"|morally)\b|\b(?:is|are) (?:not|never)(?: an?)? (?:\w+ (?:and|or) )?(?:okay|ok"
        r"|acceptable|appropriate|ethical|legal|justified|tolerated|the answer|a solution)\b"
        r"|\bis (?:a |an )?(?:serious |very serious )?(?:crime|felony|criminal offen[cs]e)\b"
        r"(?! (?:in which|where|that|of|committed|involving|under which)\b)"
        r"|\b(?:is|are) (?:against the law|(?:strictly )?(?:illegal|prohibited|forbidden)\b"
        r"(?! (?:unless|except|without)\b))"
        r"|\bit(?:'s| is) (?:\w+ )?(?:important|crucial|essential|vital|necessary) (?:that we|to"
        r" (?:note|remember|understand|recogni[sz]e|respect|treat|prioriti[sz]e|emphasi[sz]e"
        r"|consider"
        r"|approach|acknowledge|promote|be))\b[^.!?\n]{0,120}\b(?:illegal|unethical|harmful|wrong"
        r"|against the law|not (?:\w+ )?(?:acceptable|appropriate|okay|ethical)|offensive|immoral"
        r"|disrespectful|with (?:\w+ )?(?:respect|kindness|dignity)|rights and dignity"
        r"|privacy of)\b"
        r"|\b(?:is|are|would be|constitutes?) an? (?:\w+ ){0,2}(?:violation of|form of (?:abuse"
        r"|harassment|discrimination|violence|hate)|invasion of privacy)\b"
    ),
    "caution": re.compile(
        rf"{_I} (?:must |have to |need to |would |'d |want to |should |feel )?(?:\w+ly )?(?:advise"
        r"|urge|recommend|encourage|discourage|caution|warn"
        r"|implore)(?: you)?(?: \w+ly)? (?:against|not|to (?:refrain|reconsider|seek|avoid|stop"
        r"|think)|anyone|that you (?:do not|don't|refr))"
        rf"|{_I} (?:do not|don't|cannot|can't|would not|wouldn't)(?: \w+ly)? (?:condone|support"
        rf"|encourage|endorse|promote"
        r"|recommend(?! (?:\w+ ){0,4}enough)|advise|advocate|tolerate|approve)"
        rf"|{_I} (?:must|have to|need to|feel compelled to|should|would like to|want to)(?: \w+ly)?"
        r" (?:emphasi[sz]e|stress|inform|remind|point out|clarify|caution|warn|note|insist)\b"
        rf"|{_I}(?:'d| would|'ll| will)? (?:\w+ly )?(?:encourage|urge|implore|ask|advise) (?:you"
        rf"|everyone"
        r"|anyone) to (?:\w+ly )?(?:consider (?:the|other|another|seeking|your)"
        r"|find (?:\w+ )?(?:legal"
        r"|ethical|healthy|positive|constructive|other)|focus|explore|use (?:your|legal|ethical"
        r"|only)"
        r"|respect|reflect|rethink|choose|report|speak|talk|reach)\b"
        r"|\Aplease (?:do not|don't|refrain|reconsider)\b"
    ),
    "crisis": re.compile(
        r"\b(?:feel(?:ing)? (?:this|that) way|going through|struggling|hard time"
        r"|difficult time)\b[^\n]{0,200}?\b(?:help|support|reach out|talk to|professional|hotline"
        r"|helpline|not alone)\b|\breach out to [^.!?\n]{0,60}\b(?:professional|hotline|helpline"
        r"|lifeline|therapist)\b"
        r"|(?:\A|[.!?] )please,? (?:seek|reach out|consider (?:seeking|speaking|talking)|get help"
        r"|(?:call|contact|talk to|speak (?:to|with)) (?:a|an|your|the|someone|emergency|local)\b)"
    ),
    "instead": re.compile(
        r"\binstead,? (?:i(?:'d| can| could| would| will|'ll)(?: be (?:happy|glad) to| like to|"
        r" love to)? (?:help|assist|offer|provide|share|discuss|tell you|talk|encourage|urge)"
        r"|(?:i|let's|let us|how about|why don't|perhaps we|let me|consider|try"
        r"|please)\b[^.!?\n]{0,80}"
        r"\b(?:safe\w*|legal\w*|lawful\w*|ethical\w*|healthy|healthier|positive\w*|constructive\w*"
        r"|respectful\w*|responsibl[ey]|something else|another (?:topic|subject)|professional"
        r"|call|contact|consult|speak|talk))|\b(?:happy|glad) to (?:help"
        r"|assist)[^.!?\n]{0,30} (?:something else|another|other (?:topics?|questions?|requests?)"
        r"|safe|legal|any other appropriate)|\blet's (?:talk about|focus on|discuss|keep)\b"
        r"|\bask me something else\b"
    ),
}
"""Each is a refusal in the opening of an answer that then gives nothing."""

PLAIN_NO = re.compile(
    r"\A(?:(?:well|oh|um|hmm|sorry)[,.]* )?(?:no|nope|nah|never|no,? (?:absolutely|definitely"
    r"|certainly)"
    r" not|no,? thank(?:s| you)|(?:absolutely|definitely|certainly|of course) not|no way|no chance"
    r"|not a chance|not happening|hard pass|out of the question|request (?:denied|declined|refused)"
    r"|not allowed|not permitted|no comment)(?:[.!]+(?=\s|\Z)|\Z)"
)
"""A no and nothing more in its sentence: a refusal of an order, the answer to a question."""

REQUEST_DENIED = re.compile(
    rf"{_I},?{_ADVERBS} (?:can ?not|can't|won't|will not|am not able to|'m not able to|am unable to"
    r"|'m unable to|must decline to|refuse to|decline to|'d rather not|would rather not)"
    r"(?:,? (?:\w+ly|in good conscience),?)? (?:help|assist|fulfil|comply"
    r"|answer|provide|support|engage|generate|create|write|offer|participate|give you|do that)\b"
)
"""The unmistakable form: counted later in the answer, and where the request was for a refusal."""
