package io.imagekit.jobs;

import org.apache.flink.api.common.RuntimeExecutionMode;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;

/** Counts words; the TaskManager prints each with its number, as in {@code (to,3)}. */
public final class WordCount {
    private static final String[] LINES = {
        "to be or not to be", "that is the question", "whether to be or to count words"
    };

    private WordCount() {}

    public static void main(String[] args) throws Exception {
        StreamExecutionEnvironment env = StreamExecutionEnvironment.getExecutionEnvironment();
        env.setRuntimeMode(RuntimeExecutionMode.BATCH);
        env.fromElements(LINES)
                .<Tuple2<String, Integer>>flatMap(
                        (line, out) -> {
                            for (String word : line.split(" ")) {
                                out.collect(Tuple2.of(word, 1));
                            }
                        })
                .returns(Types.TUPLE(Types.STRING, Types.INT))
                .keyBy(pair -> pair.f0)
                .sum(1)
                .print();
        env.execute("WordCount");
    }
}
